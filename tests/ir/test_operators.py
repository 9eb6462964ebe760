"""The registry of operators: its facts are those of the ONNX standard and of onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper

from graphopt.ir.checks import runtime_accepts
from graphopt.ir.numpy_operators import NUMPY_OPERATORS
from graphopt.ir.operators import OPERATORS, Form, Kind, Operator, operator_of, standard_operators
from graphopt.runtime.engine import OnnxRuntimeEngine

ELEMENTWISE = {key: o for key, o in OPERATORS.items() if o.elementwise}
WITHOUT_NUMPY = {"Cast"}
"""It changes the type, and here everything is in double precision."""

OPERANDS = {"Max": 3, "Min": 3, "Sum": 3, "Mean": 3}
"""How many inputs are given, where that is not the least that the operator takes."""
BOUNDS = [np.array(-0.5, np.float32), np.array(2.5, np.float32)]
ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {
    "Celu": {"alpha": 0.5},
    "Elu": {"alpha": 0.5},
    "Gelu": {"approximate": "tanh"},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "LeakyRelu": {"alpha": 0.2},
    "Selu": {"alpha": 1.5, "gamma": 1.2},
    "Swish": {"alpha": 1.702},
    "ThresholdedRelu": {"alpha": -0.3},
    "com.microsoft.QuickGelu": {"alpha": 1.0},
}
"""Attributes that operators are tried with besides none."""

NUMBERS = [0.0, 1e-30, 1e-3, 0.5, 1.0, 1.5, 2.5, 3.0, 6.0, 20.0, 88.0]
FINITE = np.array([*NUMBERS, *(-x for x in NUMBERS)], np.float32)
SPECIAL = np.array([*FINITE, 1e4, -1e4, np.inf, -np.inf, np.nan], np.float32)
CASES = [
    pytest.param(OPERATORS[key], attributes, id=f"{key}{attributes or ''}")
    for key in NUMPY_OPERATORS
    for attributes in ({}, ATTRIBUTES.get(key))
    if attributes is not None
]


def operands_of(operator: Operator, values: np.ndarray, draws: int = 200) -> list[np.ndarray]:
    """Each of some values with each, and random ones."""
    least = 1 if operator.domain else max(onnx.defs.get_schema(operator.name).min_input, 1)
    count = OPERANDS.get(operator.name, least)
    drawn = np.random.default_rng(0).normal(0, 3, (draws, count))
    pairs = np.array(list(product(values if count < 3 else values[::3], repeat=count)))
    operands = list(np.concatenate([pairs, drawn]).astype(np.float32).T)
    if operator.name == "Where":
        operands[0] = operands[0] > 0
    return [*operands, *BOUNDS] if operator.name == "Clip" else operands


def in_onnxruntime(
    operator: Operator, attributes: Mapping[str, Any], inputs: Sequence[np.ndarray]
) -> np.ndarray:
    names = [f"x{i}" for i in range(len(inputs))]
    node = helper.make_node(operator.name, names, ["y"], domain=operator.domain, **attributes)
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in zip(names, inputs, strict=True)
    ]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    since = 0 if operator.domain else onnx.defs.get_schema(operator.name).since_version
    opsets = [helper.make_opsetid("", max(since, 17)), helper.make_opsetid("com.microsoft", 1)]
    if not runtime_accepts(opsets[0].version):
        pytest.skip(f"the installed onnxruntime does not run opset {opsets[0].version}")
    model = helper.make_model(
        helper.make_graph([node], "one", given, made),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets[:1]),
    )
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1)
    return engine.run(dict(zip(names, inputs, strict=True)))["y"]


def in_numpy(
    operator: Operator, attributes: Mapping[str, Any], inputs: Sequence[np.ndarray]
) -> np.ndarray:
    assert operator.numpy is not None
    doubles = [x if x.dtype == np.bool_ else x.astype(np.float64) for x in inputs]
    with np.errstate(all="ignore"):
        return np.asarray(operator.numpy(attributes, *doubles))


@pytest.mark.parametrize(("operator", "attributes"), CASES)
def test_numpy_computes_what_onnxruntime_does(
    operator: Operator, attributes: Mapping[str, Any]
) -> None:
    """For zeros of both signs, large and tiny numbers, infinities and NaN, too."""
    inputs = operands_of(operator, SPECIAL)
    expected = in_onnxruntime(operator, attributes, inputs)
    with np.errstate(over="ignore"):
        got = in_numpy(operator, attributes, inputs).astype(np.float32)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("key", NUMPY_OPERATORS)
def test_facts_about_values_are_those_of_the_function(key: str) -> None:
    operator, inputs = OPERATORS[key], operands_of(OPERATORS[key], FINITE)
    values = [in_numpy(operator, a, inputs) for a in ({}, ATTRIBUTES.get(key, {}))]
    assert operator.total == np.isfinite(values).all()
    assert operator.never_negative == (not (np.array(values) < 0).any())


@pytest.mark.parametrize(
    "operator",
    [o for o in ELEMENTWISE.values() if o.numpy and len(operands_of(o, FINITE)) == 1],
    ids=lambda o: o.key,
)
def test_lines_are_straight_and_curves_are_not(operator: Operator) -> None:
    grid = np.linspace(-4, 4, 1001)
    bent = np.abs(np.diff(in_numpy(operator, {}, [grid]), 2)) > 1e-9
    if operator.elementwise is Form.LINES:
        assert bent.mean() < 0.05
    elif operator.elementwise is Form.CURVE:
        assert bent.mean() > 0.3


def test_every_element_wise_operator_has_a_numpy_meaning() -> None:
    assert ELEMENTWISE.keys() - NUMPY_OPERATORS.keys() == WITHOUT_NUMPY
    assert NUMPY_OPERATORS.keys() <= ELEMENTWISE.keys()
    assert all(o.elementwise for o in OPERATORS.values() if o.kind is Kind.ELEMENTWISE)


def test_names_are_those_of_the_standard() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()} | {"Upsample"}
    assert {o.name for o in OPERATORS.values() if not o.domain} <= known
    assert set(standard_operators(Kind.POOLING)) <= {name for name in known if "Pool" in name}
    reductions = {name for name in known if "Pool" in name or name.startswith("Reduce")}
    assert set(standard_operators(Kind.POOLING, Kind.REDUCTION)) == reductions
    assert {name for name in known if name.startswith("Random")} < set(
        standard_operators(Kind.RANDOM)
    )


def test_operators_of_nodes() -> None:
    assert operator_of(gs.Node("Relu")) is OPERATORS["Relu"]
    assert operator_of(gs.Node("Relu", domain="ai.onnx")) is OPERATORS["Relu"]
    assert operator_of(gs.Node("Gelu", domain="com.microsoft")).domain == "com.microsoft"
    for node in (gs.Node("Loop"), gs.Node("Relu", domain="mine")):
        unknown = operator_of(node)
        assert (unknown.name, unknown.kind, unknown.elementwise) == (node.op, Kind.OTHER, None)
