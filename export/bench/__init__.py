"""Measure exported graphs: speed, agreement, GPU against CPU."""
