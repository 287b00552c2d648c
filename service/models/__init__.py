"""Load, watch, replace and roll back the bundles that a process serves."""
