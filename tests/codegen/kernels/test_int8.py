"""Every kernel of bytes against its NumPy reference, bit by bit, by every instruction at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from kernel_cases import DENSE, DEPTHWISE, POINTWISE, blocked, planar, run_kernel
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.epilogue import Epilogue, EpilogueStep, Operand
from graphopt.codegen.kernels.int8.choice import Int8Choice, candidates
from graphopt.codegen.kernels.int8.spec import Int8Conv, Stored, byte_lanes
from graphopt.codegen.targets import Target, load_target
from graphopt.codegen.targets.cpu import INTEGER_UNITS, VECTOR_UNITS, IntegerUnit, describe
from graphopt.runtime.cpu import cpu_features

SUM, SCALE = Operand("step", -1), Operand("channel", 0)
UNITS = {unit.tiles or unit.dot: unit for unit in INTEGER_UNITS}


def scalar(value: float) -> Operand:
    return Operand("scalar", value)


def to_bytes(value: Operand, first: int, low: float = 0.0) -> tuple[EpilogueStep, ...]:
    """Round and bound the result of a step; the first of these has the number `first`."""
    return (
        EpilogueStep("round", (value,)),
        EpilogueStep("maximum", (Operand("step", first), scalar(low))),
        EpilogueStep("minimum", (Operand("step", first + 1), scalar(255.0))),
    )


SCALED = EpilogueStep("multiply_add", (SUM, SCALE, scalar(3.0)))
REQUANTISED = Epilogue((SCALED, *to_bytes(Operand("step", 0), 1, 3.0)))
RESIDUAL = Epilogue(
    (
        SCALED,
        EpilogueStep("multiply_add", (Operand("tensor", 0), scalar(0.37), Operand("step", 0))),
        *to_bytes(Operand("step", 1), 2),
    )
)
AS_FLOATS = Epilogue((EpilogueStep("multiply", (SUM, SCALE)),))


class Operands(NamedTuple):
    """Random numbers for a convolution."""

    x: NDArray[np.uint8]
    weight: NDArray[np.int8]
    start: NDArray[np.int32]
    scales: NDArray[np.float32]
    tensors: list[NDArray[np.uint8]]


def target_of(unit: IntegerUnit) -> Target:
    """This CPU, as if these were its best instructions for bytes."""
    if not unit.features <= cpu_features():
        pytest.skip(f"this CPU lacks one of {', '.join(sorted(unit.features))}")
    here = load_target("cpu")
    vectors = next(v for v in VECTOR_UNITS.values() if v.lanes == unit.lanes)
    attributes = [*here.tvm.get("mattr", []), *unit.attributes]
    plain = describe(vectors, {**here.tvm, "mattr": attributes})
    return replace(plain, dot=unit.dot, tiles=unit.tiles)


def random_operands(spec: Int8Conv) -> Operands:
    rng, conv = np.random.default_rng(0), spec.conv
    shape = (conv.out_channels, sum(conv.in_channels) // conv.groups, *conv.kernel)
    scale = 60 / (127 * 100 * np.sqrt(np.prod(shape[1:])))
    out = (1, conv.out_channels, *conv.out_size)
    return Operands(
        rng.integers(0, 256, (1, sum(conv.in_channels), *conv.size)).astype(np.uint8),
        rng.integers(-128, 128, shape).astype(np.int8),
        rng.integers(-5000, 5000, conv.out_channels).astype(np.int32),
        (rng.random(conv.out_channels) * scale).astype(np.float32),
        [rng.integers(0, 256, out).astype(np.uint8) for _ in spec.tensors],
    )


def quantised(conv: ConvSpec, zero: int, epilogue: Epilogue = REQUANTISED) -> Int8Conv:
    """A convolution of bytes, blocked as the compiler blocks it."""
    runs = conv.in_channels
    lanes = byte_lanes(max(runs)) if len(runs) == 1 else 64
    if conv.depthwise:
        lanes = max(16, lanes)
    width = lanes if conv.depthwise else max(16, byte_lanes(conv.out_channels))
    floats = epilogue is AS_FLOATS
    return Int8Conv(
        replace(conv, epilogue=epilogue, planar=False),
        Stored("uint8", lanes),
        zero,
        Stored("float32", 16) if floats else Stored("uint8", width),
        (Stored("uint8", width),) * epilogue.count("tensor"),
    )


def check_meaning(choice: Int8Choice, spec: Int8Conv, target: Target, folder: Path) -> None:
    """What a kernel computes is what its specification means, to the last bit."""
    o, runs = random_operands(spec), spec.conv.out_runs
    operands = [
        blocked(o.x, spec.x.lanes, spec.conv.in_channels),
        choice.pack_weight(o.weight, spec, target),
        choice.pack_start(o.start, o.weight, spec, target),
        spec.packed(o.scales, target.lanes),
        *(blocked(t, s.lanes, runs) for t, s in zip(o.tensors, spec.tensors, strict=True)),
    ]
    needs = replace(target, cpu_features=choice.features(target))
    shape = spec.output_shape()
    got = run_kernel(choice.build(spec, target), operands, shape, needs, folder, spec.y.dtype)
    expected = spec.reference(
        o.x, o.weight, o.start, [o.scales], [t.astype(np.float32) for t in o.tensors]
    )
    assert len(np.unique(expected)) > 8
    np.testing.assert_array_equal(planar(got, runs), expected)


def best(spec: Int8Conv, target: Target, kernel: str) -> Int8Choice | None:
    return next((c for c in candidates(spec, target) if c.kernel == kernel), None)


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("case", [*DENSE, *POINTWISE])
def test_dense_by_dot_products(case: str, zero: int, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    spec = quantised({**DENSE, **POINTWISE}[case], zero)
    choice = best(spec, target, "conv_int8_dot")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


WITH_TILES = {
    **{name: DENSE[name] for name in ("3x3", "dilation 2", "7x7", "no pads")},
    **{name: POINTWISE[name] for name in ("1x1", "1x1, runs of channels", "1x1, many filters")},
    "stride 2": ConvSpec((40,), 48, (15, 70), (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    "several tasks": ConvSpec((130,), 72, (30, 50), (3, 3), pads=(1, 1, 1, 1)),
    "runs of channels": ConvSpec((3, 70, 16), 24, (8, 39), (3, 3), pads=(1, 1, 1, 1)),
    "uneven pads": ConvSpec((16,), 16, (7, 40), (3, 3), pads=(0, 2, 3, 1)),
}


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("case", WITH_TILES)
def test_dense_by_a_matrix_unit(case: str, zero: int, tmp_path: Path) -> None:
    target = target_of(UNITS["amx_int8"])
    spec = quantised(WITH_TILES[case], zero)
    choice = best(spec, target, "conv_int8_amx")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise(case: str, zero: int, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    spec = quantised(DEPTHWISE[case], zero)
    choice = best(spec, target, "conv_int8_depthwise")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize("epilogue", [RESIDUAL, AS_FLOATS], ids=["residual", "floats"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise 3x3"])
def test_every_unit(case: str, unit: str, epilogue: Epilogue, tmp_path: Path) -> None:
    target = target_of(UNITS[unit])
    spec = quantised({**DENSE, **POINTWISE, **DEPTHWISE}[case], 5, epilogue)
    if epilogue is AS_FLOATS:
        spec = replace(spec, y=Stored("float32", target.lanes))
    check_meaning(candidates(spec, target)[0], spec, target, tmp_path)


def test_products_do_not_saturate(tmp_path: Path) -> None:
    """The largest bytes times the largest weights, where `pmaddubsw` would end at 32767."""
    target = target_of(UNITS["avx2"])
    spec = quantised(POINTWISE["1x1"], 0, AS_FLOATS)
    spec = replace(spec, y=Stored("float32", target.lanes))
    (choice, *_) = candidates(spec, target)
    x = np.full((1, 64, *spec.conv.size), 255, np.uint8)
    weight = np.full((32, 64, 1, 1), 127, np.int8)
    start = np.zeros(32, np.int32)
    operands = [
        blocked(x, spec.x.lanes, (64,)),
        choice.pack_weight(weight, spec, target),
        choice.pack_start(start, weight, spec, target),
        spec.packed(np.ones(32, np.float32), target.lanes),
    ]
    shape = spec.output_shape()
    got = run_kernel(choice.build(spec, target), operands, shape, target, tmp_path)
    assert set(np.unique(got)) == {255.0 * 127 * 64}


def test_arm_and_others_have_no_kernels_of_bytes_yet() -> None:
    assert not candidates(quantised(DENSE["3x3"], 0), load_target("cpu", "aarch64-linux-android"))
