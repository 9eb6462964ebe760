from onnx_graphsurgeon.ir import tensor as tensor
