"""What is known about each operator wherever it stands: the registry that all rooms ask.

A new fact about operators is a field of `Operator` with a default, and its values in `OPERATORS`.
What only one room can know stays there, in a table by the same names: PyTorch's meaning
(`fitting.torch_operators`), TVM's importers (`codegen.importing`). What one pass does about an
operator stays with the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import onnx_graphsurgeon as gs

from graphopt.ir.graph import is_standard
from graphopt.ir.numpy_operators import NUMPY_OPERATORS, Doubles


class Kind(Enum):
    """The kind of work that an operator is: what its cost depends on."""

    CONVOLUTION = auto()
    """A kernel that slides over an image."""
    MATRIX_PRODUCT = auto()
    ELEMENTWISE = auto()
    """Arithmetic on each element, see `Operator.elementwise`."""
    NORMALISATION = auto()
    """Elements scaled by statistics, those of the tensor or given ones."""
    POOLING = auto()
    """A number for each window of each channel, from [N,C,...] to [N,C,...]."""
    REDUCTION = auto()
    """A number for each slice along some axes."""
    RESAMPLING = auto()
    """An image at another size."""
    MOVEMENT = auto()
    """The same elements, or some of them, at other places."""
    VIEW = auto()
    """All elements in the same order under another name, shape or type: nothing is moved."""
    KNOWN = auto()
    """A constant, or what only the shapes of tensors decide: known before the network runs."""
    RANDOM = auto()
    """Other numbers at each run."""
    QUANTISATION = auto()
    """Between numbers and the integers that stand for them."""
    OTHER = auto()
    """Nothing is known about it."""


class Form(Enum):
    """What function of its elements an element-wise operator computes."""

    ARITHMETIC = auto()
    """Sums, products, quotients and powers."""
    LINES = auto()
    """Straight lines and steps."""
    CURVE = auto()
    """A curve of one number."""


class Fusion(Enum):
    """What the compiler makes one kernel of."""

    ALONE = auto()
    """The operator has a kernel of its own."""
    CHAIN = auto()
    """It is strung together with its like where each is read by the next alone."""
    EPILOGUE = auto()
    """That, and convolutions do it before they store (`codegen.lowering.fusion`)."""


@dataclass(frozen=True)
class Operator:
    """What holds of an operator wherever it stands."""

    name: str
    kind: Kind
    domain: str = ""
    """Empty for the ONNX standard."""
    elementwise: Form | None = None
    """How it computes each element of its result from the elements at the same place of its inputs,
    which broadcast; None where it does not do that."""
    total: bool = True
    """Of an element-wise operator: whether it has a value for all numbers, short of overflow."""
    never_negative: bool = False
    """Whether no element of its result is below zero."""
    exponentials: int = 0
    """Exponentials and logarithms for each element, in the usual way to compute it."""
    fusion: Fusion = Fusion.ALONE
    has_bias: bool = False
    """Whether its second input is a weight, and its third one is added to the product."""

    @property
    def key(self) -> str:
        """The name in tables: that of another domain has the domain before it."""
        return f"{self.domain}.{self.name}" if self.domain else self.name

    @property
    def numpy(self) -> Callable[..., Doubles] | None:
        """What it computes of doubles: (attributes, *inputs) -> output; for element-wise ones."""
        return NUMPY_OPERATORS.get(self.key)


_arithmetic = partial(
    Operator, kind=Kind.ELEMENTWISE, elementwise=Form.ARITHMETIC, fusion=Fusion.CHAIN
)
_lines = partial(Operator, kind=Kind.ELEMENTWISE, elementwise=Form.LINES, fusion=Fusion.CHAIN)
_curve = partial(Operator, kind=Kind.ELEMENTWISE, elementwise=Form.CURVE, fusion=Fusion.CHAIN)
_microsoft = partial(
    Operator, kind=Kind.ELEMENTWISE, domain="com.microsoft", elementwise=Form.CURVE, exponentials=1
)
_view = partial(Operator, kind=Kind.VIEW)
_elementwise_view = partial(_view, elementwise=Form.LINES)
_moving = partial(Operator, kind=Kind.MOVEMENT, fusion=Fusion.CHAIN)
_resampling = partial(Operator, kind=Kind.RESAMPLING, fusion=Fusion.CHAIN)

_REGISTERED = (
    Operator("Conv", Kind.CONVOLUTION, has_bias=True),
    Operator("ConvTranspose", Kind.CONVOLUTION, has_bias=True),
    Operator("Gemm", Kind.MATRIX_PRODUCT, has_bias=True),
    Operator("MatMul", Kind.MATRIX_PRODUCT),
    _arithmetic("Add", fusion=Fusion.EPILOGUE),
    _arithmetic("Div", fusion=Fusion.EPILOGUE, total=False),
    _arithmetic("Mean", fusion=Fusion.ALONE),
    _arithmetic("Mul", fusion=Fusion.EPILOGUE),
    _arithmetic("Neg", fusion=Fusion.EPILOGUE),
    _arithmetic("Pow", exponentials=2, total=False),
    _arithmetic("Reciprocal", fusion=Fusion.EPILOGUE, total=False),
    _arithmetic("Sqrt", total=False, never_negative=True),
    _arithmetic("Sub", fusion=Fusion.EPILOGUE),
    _arithmetic("Sum", fusion=Fusion.ALONE),
    _lines("Abs", fusion=Fusion.EPILOGUE, never_negative=True),
    _lines("Ceil"),
    _lines("Clip", fusion=Fusion.EPILOGUE),
    _lines("Floor"),
    _lines("HardSigmoid", fusion=Fusion.EPILOGUE, never_negative=True),
    _lines("LeakyRelu", fusion=Fusion.EPILOGUE),
    _lines("Max", fusion=Fusion.EPILOGUE),
    _lines("Min", fusion=Fusion.EPILOGUE),
    _lines("PRelu"),
    _lines("Relu", fusion=Fusion.EPILOGUE, never_negative=True),
    _lines("Round"),
    _lines("Sign"),
    _lines("ThresholdedRelu"),
    _lines("Where"),
    _curve("Celu", exponentials=1, fusion=Fusion.EPILOGUE),
    _curve("Elu", exponentials=1, fusion=Fusion.EPILOGUE),
    _curve("Erf", exponentials=1),
    _curve("Exp", exponentials=1, fusion=Fusion.EPILOGUE, never_negative=True),
    _curve("Gelu", exponentials=1),
    _curve("HardSwish", fusion=Fusion.EPILOGUE),
    _curve("Log", exponentials=1, total=False),
    _curve("Mish", exponentials=3),
    _curve("Selu", exponentials=1, fusion=Fusion.EPILOGUE),
    _curve("Sigmoid", exponentials=1, fusion=Fusion.EPILOGUE, never_negative=True),
    _curve("Softplus", exponentials=2, never_negative=True),
    _curve("Softsign", fusion=Fusion.EPILOGUE),
    _curve("Swish", exponentials=1, fusion=Fusion.EPILOGUE),
    _curve("Tanh", exponentials=1, fusion=Fusion.EPILOGUE),
    _microsoft("FastGelu", fusion=Fusion.EPILOGUE),
    _microsoft("Gelu", fusion=Fusion.CHAIN),
    _microsoft("QuickGelu"),
    # Compilers, ours too, fold it into the weights of the convolution before it.
    Operator("BatchNormalization", Kind.NORMALISATION, fusion=Fusion.EPILOGUE),
    Operator("LogSoftmax", Kind.NORMALISATION, exponentials=2),
    Operator("Softmax", Kind.NORMALISATION, exponentials=1, never_negative=True),
    Operator("AveragePool", Kind.POOLING),
    Operator("GlobalAveragePool", Kind.POOLING),
    Operator("GlobalLpPool", Kind.POOLING),
    Operator("GlobalMaxPool", Kind.POOLING),
    Operator("LpPool", Kind.POOLING),
    Operator("MaxPool", Kind.POOLING),
    Operator("MaxRoiPool", Kind.REDUCTION),
    Operator("ReduceL1", Kind.REDUCTION),
    Operator("ReduceL2", Kind.REDUCTION),
    Operator("ReduceLogSum", Kind.REDUCTION),
    Operator("ReduceLogSumExp", Kind.REDUCTION),
    Operator("ReduceMax", Kind.REDUCTION),
    Operator("ReduceMean", Kind.REDUCTION),
    Operator("ReduceMin", Kind.REDUCTION),
    Operator("ReduceProd", Kind.REDUCTION),
    Operator("ReduceSum", Kind.REDUCTION),
    Operator("ReduceSumSquare", Kind.REDUCTION),
    _resampling("Resize"),
    _resampling("Upsample"),
    _moving("Concat"),
    _moving("DepthToSpace"),
    _moving("Expand"),
    _moving("Pad"),
    _moving("Slice"),
    _moving("SpaceToDepth"),
    _moving("Split"),
    _moving("Transpose"),
    _elementwise_view("Cast"),
    _elementwise_view("Dropout"),
    _elementwise_view("Identity"),
    _view("Flatten"),
    _view("Reshape"),
    _view("Squeeze"),
    _view("Unsqueeze"),
    Operator("Constant", Kind.KNOWN),
    Operator("ConstantOfShape", Kind.KNOWN),
    Operator("Shape", Kind.KNOWN),
    Operator("Bernoulli", Kind.RANDOM),
    Operator("Multinomial", Kind.RANDOM),
    Operator("RandomNormal", Kind.RANDOM),
    Operator("RandomNormalLike", Kind.RANDOM),
    Operator("RandomUniform", Kind.RANDOM),
    Operator("RandomUniformLike", Kind.RANDOM),
    Operator("DequantizeLinear", Kind.QUANTISATION),
    Operator("DynamicQuantizeLinear", Kind.QUANTISATION),
    Operator("QuantizeLinear", Kind.QUANTISATION),
)

OPERATORS: Mapping[str, Operator] = {operator.key: operator for operator in _REGISTERED}
"""Every operator that something is known about, by its key."""


def operator_of(node: gs.Node) -> Operator:
    """What is known about a node's operator; of kind `OTHER` where nothing is."""
    domain = "" if is_standard(node) else str(node.domain)
    unknown = Operator(str(node.op), Kind.OTHER, domain)
    return OPERATORS.get(unknown.key, unknown)


def standard_operators(*kinds: Kind) -> tuple[str, ...]:
    """The names of the standard's operators of some kinds."""
    return tuple(o.name for o in OPERATORS.values() if o.kind in kinds and not o.domain)
