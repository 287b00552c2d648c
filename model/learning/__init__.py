"""Train, checkpoint and evaluate."""
