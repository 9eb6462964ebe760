"""Which operators can be compiled; known without TVM, so that others are refused at once.

`tests/codegen/importing/test_supported.py` holds the list to what TVM's importer and ours know.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphopt.errors import Unsupported
from graphopt.ir.graph import is_standard, label
from graphopt.passes.canonicalize import Canonicalize

_IMPORTED = """
    Abs Acos Acosh Add AffineGrid AllClassNMS And ArgMax ArgMin Asin Asinh Atan Atanh Attention
    AveragePool BatchNormalization BiasGelu BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast
    CastLike Ceil Celu Clip Compress Concat ConcatFromSequence Constant ConstantOfShape Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear
    Einsum Elu EmbedLayerNormalization Equal Erf Exp Expand EyeLike FastGelu Flatten Floor Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpPool MatMul MatMulInteger MatMulInteger16 Max MaxPool MaxRoiPool MaxUnpool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Optional
    OptionalGetElement OptionalHasElement Or PRelu Pad Pow QuantizeLinear RMSNormalization Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RoiAlign Round Scatter ScatterElements
    ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
    SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size SkipLayerNormalization Slice Softmax
    Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum Swish Tan Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
IMPORTED = frozenset(_IMPORTED.split())
"""Operators that there is an import rule for: TVM's or our own."""

_NOT_STATIC = """
    Compress ConcatFromSequence NonZero Optional OptionalGetElement OptionalHasElement SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence
    Unique
"""
NOT_STATIC = frozenset(_NOT_STATIC.split())
"""Those of them that a static plan cannot hold: what they make has no fixed size, or is no tensor.
"""


def check_operators(graph: gs.Graph) -> None:
    """Refuse a network with an operator that cannot be compiled.

    Args:
        graph: the network, its sizes fixed. What `canonicalize` would remove does not count.

    Raises:
        Unsupported: names the operator and its node.
    """
    if all(reason_against(node) is None for node in graph.nodes):
        return
    cleaned = graph.copy()
    Canonicalize().run(cleaned)
    for node in cleaned.nodes:
        reason = reason_against(node)
        if reason is not None:
            name = node.op if is_standard(node) else f"{node.domain}.{node.op}"
            raise Unsupported(
                f"the operator {name} cannot be compiled: {reason}",
                node=label(node),
                hint="export the network without it, or cut it off before this node",
            )


def reason_against(node: gs.Node) -> str | None:
    """Why a node cannot be compiled; None where it can."""
    if node.op not in IMPORTED or not (is_standard(node) or node.domain == "com.microsoft"):
        return "there is no rule for it"
    if node.op in NOT_STATIC:
        return "what it makes has no fixed size, or is no tensor"
    return None
