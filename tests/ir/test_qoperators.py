"""Operators on quantised tensors become float ones between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.ir.arrays import Array
from graphopt.ir.edit import sort_nodes
from graphopt.ir.graph import constant_of
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.passes.canonicalize import Canonicalize
from graphopt.runtime.engine import OnnxRuntimeEngine

Proto = Callable[..., onnx.ModelProto]
X = "uint8[1,4,6,8] x"
RNG = np.random.default_rng(0)

CONSTANTS: dict[str, Array] = {
    "s": np.float32(0.02),
    "z": np.uint8(131),
    "t": np.float32(0.0371),
    "u": np.uint8(120),
    "t1": np.array([0.04], np.float32),
    "u1": np.array([120], np.uint8),
    "k": RNG.integers(0, 256, (1, 4, 1, 1), np.uint8),
    "w": RNG.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8),
    "ws": RNG.uniform(0.001, 0.02, 6).astype(np.float32),
    "wz": np.zeros(6, np.int8),
    "b": RNG.integers(-2000, 2000, 6).astype(np.int32),
    "m": RNG.integers(0, 256, (8, 5), np.uint8),
    "mz": np.array([100, 120, 128, 130, 255], np.uint8),
    "g": RNG.integers(-127, 128, (5, 192)).astype(np.int8),
    "gs": RNG.uniform(0.0001, 0.001, 5).astype(np.float32),
    "gz": np.zeros(5, np.int8),
    "gb": RNG.integers(-2000, 2000, 5).astype(np.int32),
    "yes": np.array([[True], [False]] * 3),
    "f": np.array([1, 192], np.int64),
}

CONV = "y = QLinearConv<pads=[1,1,1,1]>(x, s, z, w, ws, wz, t1, u1, b)"
CASES: dict[str, tuple[str, str, list[str]]] = {
    "QLinearConv": ("uint8[1,6,6,8] y", CONV, ["Conv"]),
    "no bias, one scale": (
        "uint8[1,6,4,6] y",
        "y = QLinearConv(x, s, z, w, s, wz0, t, u)",
        ["Conv"],
    ),
    "QLinearMatMul": (
        "uint8[1,4,6,5] y",
        "y = QLinearMatMul(x, s, z, m, s, u, t, u)",
        ["MatMul"],
    ),
    "QLinearAdd of a constant": (
        "uint8[1,4,6,8] y",
        "y = com.microsoft.QLinearAdd(x, s, z, k, t, u, t, u)",
        ["Add"],
    ),
    "QLinearMul of itself": (
        "uint8[1,4,6,8] y",
        "y = com.microsoft.QLinearMul(x, s, z, x, s, z, t, u)",
        ["Mul"],
    ),
    "QLinearConcat": (
        "uint8[1,8,6,8] y",
        "y = com.microsoft.QLinearConcat<axis=1>(t, u, x, s, z, x, t, u)",
        ["Concat"],
    ),
    "activations": (
        "uint8[1,4,6,8] y, uint8[1,4,6,8] v",
        """y = com.microsoft.QLinearLeakyRelu<alpha=0.2>(x, s, z, t, u)
           v = com.microsoft.QLinearSigmoid(y, t, u, s, z)""",
        ["LeakyRelu", "Sigmoid"],
    ),
    "pools": (
        "uint8[1,4,1,1] y, uint8[1,4,3,4] v",
        """y = com.microsoft.QLinearGlobalAveragePool(x, s, z, t, u)
           v = com.microsoft.QLinearAveragePool<kernel_shape=[2,2], strides=[2,2]>(x, s, z, t, u)
        """,
        ["GlobalAveragePool", "AveragePool"],
    ),
    "QGemm": (
        "uint8[1,5] y, float[1,5] v",
        """r = Reshape(x, f)
           y = com.microsoft.QGemm<transB=1, alpha=0.5>(r, s, z, g, gs, gz, gb, t, u)
           v = com.microsoft.QGemm<transB=1>(r, s, z, g, gs, gz, gb)""",
        ["Reshape", "Gemm", "Gemm"],
    ),
    "QLinearWhere": (
        "uint8[1,4,6,8] y",
        "y = com.microsoft.QLinearWhere(yes, x, s, z, k, t, u, t, u)",
        ["Where"],
    ),
    "ConvInteger": (
        "float[1,6,6,8] y, int32[1,6,6,8] i",
        "i = ConvInteger<pads=[1,1,1,1]>(x, w, z) y0 = Cast<to=1>(i) y = Neg(y0)",
        ["Conv", "Neg", "Cast"],
    ),
    "MatMulInteger": (
        "float[1,4,6,5] y",
        "i = MatMulInteger(x, m, z, mz) y0 = Cast<to=1>(i) y = Neg(y0)",
        ["MatMul", "Neg"],
    ),
}


def quantised(proto: Proto, outputs: str, body: str) -> onnx.ModelProto:
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    constants = {k: v for k, v in (CONSTANTS | {"wz0": np.int8(0)}).items() if k in words}
    return proto(X, outputs, body, opset=17, **constants)


def operators(model: onnx.ModelProto) -> list[str]:
    known = ("QuantizeLinear", "DequantizeLinear")
    return [node.op_type for node in model.graph.node if node.op_type not in known]


@pytest.mark.parametrize("name", CASES)
def test_it_means_the_same(name: str, proto: Proto, tmp_path: Path) -> None:
    outputs, body, expected = CASES[name]
    model = quantised(proto, outputs, body)
    onnx.save(model, tmp_path / "net.onnx")
    graph = load_model(tmp_path / "net.onnx")
    Canonicalize().run(graph)
    sort_nodes(graph)
    written = to_proto(graph)
    onnx.checker.check_model(written, full_check=True)
    assert operators(written) == expected
    feeds = {"x": np.random.default_rng(1).integers(0, 256, (1, 4, 6, 8), np.uint8)}
    before = OnnxRuntimeEngine(model.SerializeToString(), optimize=False).run(feeds)
    after = OnnxRuntimeEngine(written.SerializeToString(), optimize=False).run(feeds)
    for output, value in before.items():
        apart = np.abs(value.astype(np.float64) - after[output].astype(np.float64))
        if value.dtype == np.uint8:
            assert apart.max() <= 1
            assert (apart > 0).mean() < 0.02, "only where rounding decides"
            assert len(np.unique(value)) > 3
        else:
            assert apart.max() <= 1e-6 * np.abs(value).max()


def test_weights_stay_whole_numbers(proto: Proto, tmp_path: Path) -> None:
    onnx.save(quantised(proto, "uint8[1,6,6,8] y", CONV), tmp_path / "net.onnx")
    graph = load_model(tmp_path / "net.onnx")
    Canonicalize().run(graph)
    (conv,) = (node for node in graph.nodes if node.op == "Conv")
    weight, bias = (conv.inputs[i].inputs[0] for i in (1, 2))
    assert (weight.op, weight.inputs[0].dtype, weight.attrs["axis"]) == (
        "DequantizeLinear",
        np.int8,
        0,
    )
    assert (bias.op, bias.inputs[0].dtype) == ("DequantizeLinear", np.int32)
    np.testing.assert_array_equal(
        constant_of(bias.inputs[1]), np.float32(0.02) * CONSTANTS["ws"], strict=True
    )


LEFT = {
    "channels last": (
        "uint8[1,1,1,8] y",
        "y = com.microsoft.QLinearGlobalAveragePool<channels_last=1>(x, s, z, t, u)",
        "channels are last",
    ),
}


@pytest.mark.parametrize(("outputs", "body", "says"), LEFT.values(), ids=LEFT)
def test_what_has_no_float_form_stays(
    outputs: str, body: str, says: str, proto: Proto, tmp_path: Path
) -> None:
    model = quantised(proto, outputs, body)
    onnx.save(model, tmp_path / "net.onnx")
    graph = load_model(tmp_path / "net.onnx")
    outcome = Canonicalize().run(graph)
    assert [says in skip.reason for skip in outcome.skips] == [True]
    assert operators(to_proto(graph)) == [model.graph.node[-1].op_type]
