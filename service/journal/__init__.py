"""The journal: decisions as they were made, and the feedback on them."""
