"""Baselines, grids of experiments and the reports made of them."""
