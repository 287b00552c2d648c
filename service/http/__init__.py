"""The HTTP application around the ranker."""
