"""Compare the canary with the active version on what users did, and promote or roll back."""
