"""Serve exported bundles over HTTP. This package does not import torch."""

import os

# onnxruntime sends telemetry unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
