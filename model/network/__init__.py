"""Generator, evaluator and the reasoning loop."""
