"""Build the ONNX graphs of generator and evaluator."""
