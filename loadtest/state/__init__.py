"""Measure the entity store of a service: `python -m loadtest state`."""
