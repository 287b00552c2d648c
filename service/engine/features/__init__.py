"""Turn requests into arrays, for serving and training alike."""
