"""Run one exported bundle: contract, features, onnxruntime session, constraints, CUDA."""
