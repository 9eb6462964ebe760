"""Quantised tensors: what the importer makes of them, and that kernels give onnxruntime's bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import Unsupported
from graphopt.ir.arrays import Array
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.open import open_bundle

Proto = Callable[..., onnx.ModelProto]
TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]
SHAPE = (1, 5, 6, 7)
EXTENTS = "[1,5,6,7]"


def special() -> Array:
    """Numbers of all sizes, many half-way between two steps, and those that are none."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(SHAPE) * rng.choice([1e-3, 1, 50, 1e5], SHAPE)
    x = np.where(rng.random(SHAPE) < 0.5, (np.rint(x) + 0.5) / 4, x)
    x.reshape(-1)[:8] = [np.nan, np.inf, -np.inf, 1e38, -1e38, 0.0, -0.0, 1e-40]
    return np.asarray(x, np.float32)


def uniform(kind: str) -> Array:
    limits = np.iinfo(kind)
    values = np.random.default_rng(1).integers(limits.min, limits.max, SHAPE, np.dtype(kind))
    values.reshape(-1)[:2] = limits.min, limits.max
    return values


def number(value: float, kind: str = "float32") -> Array:
    return np.asarray(value, kind)


def numbers(*values: float, kind: str = "float32") -> Array:
    return np.asarray(values, kind)


CONSTANTS = {
    "quarter": number(0.25),
    "third": numbers(0.3),
    "channels": numbers(0.1, 0.5, 1.0, 3.3, 0.007),
    "columns": np.linspace(0.01, 2, 7, dtype=np.float32),
    "u131": number(131, "uint8"),
    "s7": number(-7, "int8"),
    "s3": numbers(3, kind="int8"),
    "s300": number(300, "int16"),
    "u32768": number(32768, "uint16"),
    "zeros": numbers(0, 1, 128, 254, 255, kind="uint8"),
    "shifts": np.arange(-3, 4, dtype=np.int8),
}

QUANTIZED = (
    ("uint8", "x, quarter"),
    ("uint8", "x, quarter, u131"),
    ("int8", "x, quarter, s7"),
    ("int8", "x, third, s3"),
    ("int16", "x, quarter, s300"),
    ("uint16", "x, quarter, u32768"),
    ("int8", "<output_dtype=3> x, third"),
    ("uint8", "x, channels, zeros"),
    ("int8", "<axis=-1> x, columns, shifts"),
    ("uint8", "h, third"),
)
"""What is quantised, and to what: `x` is float32, `h` float16's numbers in float32."""

DEQUANTIZED = (
    ("uint8", "quarter"),
    ("uint8", "third, u131"),
    ("int8", "third, s7"),
    ("int8", "third, s3"),
    ("int16", "quarter, s300"),
    ("uint16", "third, u32768"),
    ("int32", "third"),
    ("int32", "channels"),
    ("uint8", "channels, zeros"),
    ("int8", "<axis=-1> columns, shifts"),
)


def node(op: str, result: str, arguments: str, first: str = "") -> str:
    """One node, from arguments that may begin with attributes."""
    attributes, _, rest = arguments.rpartition("> ")
    given = ", ".join(filter(None, [first, rest]))
    return f"{result} = {op}{attributes}{'>' * bool(attributes)}({given})"


def used(body: str) -> dict[str, Array]:
    return {name: value for name, value in CONSTANTS.items() if name in body}


def check_bits(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    folder: Path,
    target: str,
    *,
    varied: bool = True,
) -> None:
    onnx.save(model, folder / "net.onnx")
    compile_model(folder / "net.onnx", folder / "bundle", CompileOptions(target=target))
    got = open_bundle(folder / "bundle").run(dict(feeds))
    expected = OnnxRuntimeEngine(model.SerializeToString(), optimize=False).run(dict(feeds))
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
        assert not varied or len(np.unique(value)) > 10


@pytest.mark.parametrize("target", TARGETS)
def test_quantize_gives_onnxruntimes_bits(target: str, proto: Proto, tmp_path: Path) -> None:
    lines = ["h16 = Cast<to=10>(x)", "h = Cast<to=1>(h16)"]
    lines += [
        node("QuantizeLinear", f"y{i}", arguments) for i, (_, arguments) in enumerate(QUANTIZED)
    ]
    outputs = ", ".join(f"{kind}{EXTENTS} y{i}" for i, (kind, _) in enumerate(QUANTIZED))
    body = "\n".join(lines)
    model = proto(f"float{EXTENTS} x", outputs, body, opset=21, **used(body))
    check_bits(model, {"x": special()}, tmp_path, target)


@pytest.mark.parametrize("target", TARGETS)
def test_dequantize_gives_onnxruntimes_bits(target: str, proto: Proto, tmp_path: Path) -> None:
    kinds = dict.fromkeys(kind for kind, _ in DEQUANTIZED)
    body = "\n".join(
        node("DequantizeLinear", f"y{i}", arguments, kind.upper())
        for i, (kind, arguments) in enumerate(DEQUANTIZED)
    )
    inputs = ", ".join(f"{kind}{EXTENTS} {kind.upper()}" for kind in kinds)
    outputs = ", ".join(f"float{EXTENTS} y{i}" for i in range(len(DEQUANTIZED)))
    model = proto(inputs, outputs, body, opset=21, **used(body))
    check_bits(model, {kind.upper(): uniform(kind) for kind in kinds}, tmp_path, target)


def test_dynamic_quantize_gives_onnxruntimes_bits(proto: Proto, tmp_path: Path) -> None:
    x = np.nan_to_num(special(), posinf=3.0, neginf=-1.0).clip(-1e3, 1e3)
    body = """p = Mul(x, k) n = Abs(p) o = Mul(x, none)
        y0, s0, z0 = DynamicQuantizeLinear(x) y1, s1, z1 = DynamicQuantizeLinear(n)
        y2, s2, z2 = DynamicQuantizeLinear(o) v = DequantizeLinear(y2, s2, z2)"""
    outputs = ", ".join(f"uint8{EXTENTS} y{i}, float s{i}, uint8 z{i}" for i in range(3))
    constants = {"k": number(0.37), "none": number(0.0)}
    model = proto(f"float{EXTENTS} x", f"{outputs}, float{EXTENTS} v", body, **constants)
    check_bits(model, {"x": x}, tmp_path, "cpu", varied=False)


QUANTIZED_CONV = """
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
    w = DequantizeLinear<axis=0>(wq, ws, wz) b = DequantizeLinear<axis=0>(bq, bs)
    c = Conv<pads=[1,1,1,1]>(d, w, b) r = Relu(c)
    o = QuantizeLinear(r, s, z) y = DequantizeLinear(o, s, z)"""


def conv_constants() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.001, 0.01, 4).astype(np.float32)
    return {
        "s": number(0.05),
        "z": number(120, "uint8"),
        "wq": rng.integers(-127, 128, (4, 5, 3, 3)).astype(np.int8),
        "ws": scales,
        "wz": np.zeros(4, np.int8),
        "bq": rng.integers(-3000, 3000, 4).astype(np.int32),
        "bs": scales * np.float32(0.05),
    }


def imported(model: onnx.ModelProto) -> list[Any]:
    """The calls that the importer makes of a network, weights as they are."""
    from tvm import relax

    from graphopt.codegen.importing.importer import import_onnx

    for i, made in enumerate(model.graph.node):
        made.name = made.name or f"n{i}"
    module, _ = import_onnx(model)
    bindings = [b for block in module["main"].body.blocks for b in block.bindings]
    return [b.value for b in bindings if isinstance(b.value, relax.Call)]


def test_weights_stay_whole_numbers_until_they_are_to_be_floats(proto: Proto) -> None:
    pytest.importorskip("tvm")
    from graphopt.codegen.importing.quantisation import is_weight

    constants = conv_constants()
    model = proto(f"float{EXTENTS} x", "float[1,4,6,7] y", QUANTIZED_CONV, **constants)
    calls = imported(model)
    names = [call.op.name.removeprefix("relax.") for call in calls]
    (weight,) = (call for call in calls if is_weight(call))
    np.testing.assert_array_equal(weight.args[0].value.numpy(), constants["wq"])
    np.testing.assert_array_equal(weight.args[1].value.numpy(), constants["ws"])
    assert weight.args[2].value.numpy().shape == ()  # the same for all
    assert (int(weight.attrs.axis), str(weight.attrs.out_dtype)) == (0, "float32")
    names.remove("dequantize")  # the weight's, wherever it is
    rest = ["quantize", "dequantize", "nn.conv2d", "add", "nn.relu", "quantize", "dequantize"]
    assert names == rest, "and the bias is a constant"


def test_a_quantised_convolution_compiles(proto: Proto, tmp_path: Path) -> None:
    model = proto(f"float{EXTENTS} x", "float[1,4,6,7] y", QUANTIZED_CONV, **conv_constants())
    onnx.save(model, tmp_path / "net.onnx")
    done = compile_model(tmp_path / "net.onnx", tmp_path / "bundle")
    assert any(launch.macs for launch in done.plan.launches)


@pytest.mark.parametrize(
    ("line", "constants", "says"),
    [
        (
            "y = DequantizeLinear<axis=1, block_size=2>(q, s)",
            {"s": np.ones((1, 3, 6, 7), np.float32)},
            "a scale for each block",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    line: str, constants: dict[str, Array], says: str, proto: Proto, tmp_path: Path
) -> None:
    model = proto("int8[1,6,6,7] q", "float[1,6,6,7] y", line, opset=21, **constants)
    model.graph.node[-1].name = "culprit"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(Unsupported, match=says) as caught:
        compile_model(tmp_path / "net.onnx", tmp_path / "bundle")
    assert caught.value.node == "culprit"
