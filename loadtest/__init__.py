"""Measure a running service from outside."""
