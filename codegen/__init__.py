"""From an ONNX graph to a bundle of kernels and a static plan; the only importer of tvm."""

if __name__ != "graphopt.codegen":
    raise ImportError("import graphopt.codegen, not the bare folder")
