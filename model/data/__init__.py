"""Read logs, and write and load canonical data sets."""
