"""Serve exported bundles over HTTP. This package does not import torch."""
