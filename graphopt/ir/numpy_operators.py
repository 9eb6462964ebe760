"""Element-wise ONNX operators in NumPy, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Attributes = Mapping[str, Any]


def _plain(operation: Callable[..., Any]) -> Callable[..., Doubles]:
    """An operator without attributes."""
    return lambda _, *operands: np.asarray(operation(*operands))


def _fold(operation: Callable[[Doubles, Doubles], Doubles]) -> Callable[..., Doubles]:
    """An operator of two or more inputs that takes them in one after the other."""
    return lambda _, *operands: reduce(operation, operands)


def _sigmoid(x: Doubles) -> Doubles:
    return np.asarray(scipy.special.expit(x))


def _softplus(x: Doubles) -> Doubles:
    return np.asarray(np.logaddexp(0, x))


def _clip(
    attributes: Attributes, x: Doubles, low: Doubles | None = None, high: Doubles | None = None
) -> Doubles:
    lower = attributes.get("min", -np.inf) if low is None else low
    upper = attributes.get("max", np.inf) if high is None else high
    return np.minimum(np.maximum(x, lower), upper)


def _hard_sigmoid(attributes: Attributes, x: Doubles) -> Doubles:
    line = attributes.get("alpha", 0.2) * x + attributes.get("beta", 0.5)
    return np.asarray(np.clip(line, 0, 1))


def _leaky(x: Doubles, slope: Doubles | float) -> Doubles:
    return np.where(x < 0, slope * x, x)


def _thresholded_relu(attributes: Attributes, x: Doubles) -> Doubles:
    return np.where(x > attributes.get("alpha", 1.0), x, 0.0)


def _gelu(attributes: Attributes, x: Doubles) -> Doubles:
    if attributes.get("approximate", "none") == "tanh":
        return _fast_gelu(attributes, x)
    return np.asarray(x * scipy.special.ndtr(x))


def _fast_gelu(_: Attributes, x: Doubles, bias: Doubles | float = 0.0) -> Doubles:
    x = x + bias
    return x * _sigmoid(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3))


def _elu(x: Doubles, alpha: float) -> Doubles:
    return np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0))


def _celu(attributes: Attributes, x: Doubles) -> Doubles:
    alpha = attributes.get("alpha", 1.0)
    return np.asarray(np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / alpha))


def _selu(attributes: Attributes, x: Doubles) -> Doubles:
    curve = _elu(x, attributes.get("alpha", 1.6732632423543772))
    return np.asarray(attributes.get("gamma", 1.0507009873554805) * curve)


NUMPY_OPERATORS: Mapping[str, Callable[..., Doubles]] = {
    # Sums, products, powers.
    "Add": _plain(np.add),
    "Div": _plain(np.divide),
    "Mean": lambda _, *operands: reduce(np.add, operands) / len(operands),
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "Pow": _plain(np.power),
    "Reciprocal": _plain(lambda x: 1 / x),
    "Sqrt": _plain(np.sqrt),
    "Sub": _plain(np.subtract),
    "Sum": _fold(np.add),
    # Straight lines and steps.
    "Abs": _plain(np.abs),
    "Ceil": _plain(np.ceil),
    "Clip": _clip,
    "Dropout": lambda _, x, *__: x,
    "Floor": _plain(np.floor),
    "HardSigmoid": _hard_sigmoid,
    "Identity": _plain(lambda x: x),
    "LeakyRelu": lambda a, x: _leaky(x, a.get("alpha", 0.01)),
    "Max": _fold(np.maximum),
    "Min": _fold(np.minimum),
    "PRelu": lambda _, x, slope: _leaky(x, slope),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "Round": _plain(np.round),
    "Sign": _plain(np.sign),
    "ThresholdedRelu": _thresholded_relu,
    "Where": _plain(np.where),
    # Curves.
    "Celu": _celu,
    "Elu": lambda a, x: _elu(x, a.get("alpha", 1.0)),
    "Erf": _plain(lambda x: scipy.special.erf(x)),
    "Exp": _plain(np.exp),
    "Gelu": _gelu,
    "HardSwish": _plain(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Log": _plain(np.log),
    "Mish": _plain(lambda x: x * np.tanh(_softplus(x))),
    "Selu": _selu,
    "Sigmoid": _plain(_sigmoid),
    "Softplus": _plain(_softplus),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "Swish": lambda a, x: x * _sigmoid(a.get("alpha", 1.0) * x),
    "Tanh": _plain(np.tanh),
    "com.microsoft.FastGelu": _fast_gelu,
    "com.microsoft.Gelu": _gelu,
    "com.microsoft.QuickGelu": lambda a, x: x * _sigmoid(a.get("alpha", 1.702) * x),
}
"""By the operator's key (`operators.Operator.key`): (attributes, *inputs) -> output, where an input
that is left out is None."""
