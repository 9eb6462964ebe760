"""From ONNX to TVM's Relax: what is refused, what is rewritten, operators that TVM lacks."""
