"""Learn the re-ranker: prepare data, train, evaluate, report."""

import os

# onnxruntime sends telemetry unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
