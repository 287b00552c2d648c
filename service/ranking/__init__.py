"""Rank one request: validate it against its bundle, featurise, batch, fall back."""
