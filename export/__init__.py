"""Turn a trained checkpoint into a verified bundle."""

import os
import sys

# onnxruntime sends telemetry unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# OpenVINO, which the benchmark may use, reports its import unless this package is missing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
