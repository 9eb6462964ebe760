"""ONNX operators in PyTorch: the element-wise ones are the functions that NumPy has."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphopt.ir.operators import OPERATORS

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra [distill])")

from graphopt.fitting.torch_operators import TORCH_OPERATORS  # noqa: E402 (where PyTorch is)

ELEMENTWISE = {o.name for o in OPERATORS.values() if o.elementwise and not o.domain}
# fmt: off
NOT_TRAINED = {
    "Cast", "Ceil", "Celu", "Dropout", "Floor", "Gelu", "Log", "Mean", "Pow", "Reciprocal", "Round",
    "Selu", "Sign", "Softsign", "Swish", "ThresholdedRelu", "Where",
}
# fmt: on
"""Element-wise operators that networks cannot be trained through."""

OPERANDS = {"Add": 2, "Div": 2, "Max": 3, "Min": 3, "Mul": 2, "PRelu": 2, "Sub": 2, "Sum": 3}
"""How many inputs are given, where that is not one."""


def test_every_element_wise_operator_can_be_trained_through_or_is_named() -> None:
    assert ELEMENTWISE - TORCH_OPERATORS.keys() == NOT_TRAINED
    assert TORCH_OPERATORS.keys() <= OPERATORS.keys()


@pytest.mark.parametrize("name", sorted(ELEMENTWISE - NOT_TRAINED))
def test_pytorch_computes_what_numpy_does(name: str) -> None:
    numbers = np.concatenate([[0.0, -0.0, np.inf, -np.inf, np.nan], np.linspace(-9, 9, 181)])
    rng = np.random.default_rng(0)
    inputs = [numbers, *(rng.normal(0, 3, numbers.shape) for _ in range(OPERANDS.get(name, 1) - 1))]
    inputs += [np.array(-0.5), np.array(2.5)] if name == "Clip" else []
    node = gs.Node(name)
    got = TORCH_OPERATORS[name](node, [torch.from_numpy(x) for x in inputs]).numpy()
    compute = OPERATORS[name].numpy
    assert compute is not None
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(got, compute({}, *inputs), rtol=1e-7, atol=1e-12)
