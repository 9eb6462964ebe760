"""Networks: read and written as ONNX, looked up, edited, checked; how weights are stored."""
