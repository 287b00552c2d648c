"""Measure the journal of a service: `python -m loadtest journal`."""
