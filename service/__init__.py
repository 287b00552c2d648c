"""Serve one exported bundle over HTTP; holds no torch."""
