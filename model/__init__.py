"""Learn the re-ranker: prepare data, train, evaluate, report."""
