"""The HTTP application around the re-ranker."""
