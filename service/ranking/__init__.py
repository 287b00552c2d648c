"""Rank candidate lists: check them against their bundle, featurise, batch and fall back."""
