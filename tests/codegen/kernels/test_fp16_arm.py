"""Kernels of float16 by Arm's instructions: compiled everywhere, run in an emulator."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tvm
from emulated_kernels import HOST, Run
from kernel_cases import DENSE, DEPTHWISE, EPILOGUES, POINTWISE, blocked, planar

from graphopt.codegen.kernels.conv import choice as kernel_choice
from graphopt.codegen.kernels.conv.choice import KernelChoice
from graphopt.codegen.kernels.conv.register_tile import RUN
from graphopt.codegen.kernels.conv.template import ConvSpec, pack_channels
from graphopt.codegen.kernels.epilogue import NOTHING, Epilogue, Floats
from graphopt.codegen.linking import machine_code
from graphopt.codegen.targets import Target, in_floats, load_target, with_half_arithmetic
from graphopt.ir.arrays import Array

CASES = {
    name: spec
    for cases in (DENSE, POINTWISE, DEPTHWISE)
    for name, spec in cases.items()
    if not spec.planar  # a photo is float32
}


def arm(host: str = HOST) -> Target:
    """An Arm CPU that computes in float16."""
    return with_half_arithmetic(load_target("cpu", host, "asimdhp"), "asimdhp")


def halved(spec: ConvSpec, epilogue: Epilogue = NOTHING) -> ConvSpec:
    """The same, of which all is stored as float16 that a network stores so."""
    tensors = (f"tensor{n}" for n in range(epilogue.count("tensor")))
    return replace(spec, epilogue=epilogue, half=frozenset(["x", "weight", "y", *tensors]))


def directly(spec: ConvSpec, target: Target) -> KernelChoice:
    """The best kernel, but for Winograd's, which are of float32."""
    choices = kernel_choice.candidates(spec, target)
    return next(c for c in choices if c.kernel != "conv_winograd")


def run_on(
    operands: dict[str, Floats],
    choice: KernelChoice,
    spec: ConvSpec,
    target: Target,
    folder: Path,
    run: Run,
) -> Floats:
    """What a kernel makes of x, weight, channels and tensors, (1, filters, oh, ow)."""
    lanes, runs = target.lanes, spec.out_runs
    laid: dict[str, Array] = {
        name: blocked(values, lanes, runs)
        if name.startswith("tensor")
        else pack_channels(values, lanes, runs)
        for name, values in operands.items()
        if name not in ("x", "weight")
    }
    laid = {
        "x": blocked(operands["x"], lanes, spec.in_channels),
        "weight": choice.pack_weight(operands["weight"], spec, target),
        **laid,
    }
    stored = [values.astype(spec.dtype(name)) for name, values in laid.items()]
    shape = spec.output_shape(lanes)
    got = run(choice.build(spec, target), stored, shape, target, folder, "float16")
    return np.asarray(planar(got, runs), np.float32)


def operands_of(spec: ConvSpec, *, whole: bool) -> dict[str, Floats]:
    """Numbers that float16 holds: small whole ones, or any."""
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> Floats:
        drawn = rng.integers(-2, 3, shape) if whole else rng.standard_normal(shape)
        return drawn.astype(np.float16).astype(np.float32)

    out = (1, spec.out_channels, *spec.out_size)
    return {
        "x": numbers(1, sum(spec.in_channels), *spec.size),
        "weight": numbers(spec.out_channels, sum(spec.in_channels) // spec.groups, *spec.kernel),
        **{f"channel{n}": numbers(out[1]) for n in range(spec.epilogue.count("channel"))},
        **{f"tensor{n}": numbers(*out) for n in range(spec.epilogue.count("tensor"))},
    }


def reference(spec: ConvSpec, o: dict[str, Floats]) -> Floats:
    """What the convolution means, with exact sums."""
    named = {kind: [v for name, v in o.items() if name.startswith(kind)] for kind in ("ch", "te")}
    return spec.reference(o["x"], o["weight"], named["ch"], named["te"])


@pytest.mark.android
@pytest.mark.parametrize("case", CASES)
def test_whole_numbers(case: str, emulated_kernel: Run, tmp_path: Path) -> None:
    """Those up to 2048 are float16's, and products of a run are fewer: sums are exact."""
    target, spec = arm(), halved(CASES[case])
    o = operands_of(spec, whole=True)
    got = run_on(o, directly(spec, target), spec, target, tmp_path, emulated_kernel)
    expected = reference(spec, o)
    assert len(np.unique(expected)) > 8
    np.testing.assert_array_equal(got, expected.astype(np.float16))


@pytest.mark.android
@pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise 3x3"])
def test_any_numbers(case: str, emulated_kernel: Run, tmp_path: Path) -> None:
    """Each product of a run may be off by half a step of what is added up, 2^-11 of its size."""
    target, spec = arm(), halved(CASES[case], EPILOGUES["bias, relu, residual"])
    o = operands_of(spec, whole=False)
    got = run_on(o, directly(spec, target), spec, target, tmp_path, emulated_kernel)
    expected = reference(spec, o)
    sizes = spec.sums(np.abs(o["x"]), np.abs(o["weight"]))
    added = o["weight"][0].size
    run = min(added, max(RUN, int(np.prod(spec.kernel)) * target.lanes))
    off = np.abs(got - expected)
    assert (off <= sizes * run * 2.0**-11 + np.abs(expected) * 2.0**-11 + 1e-3).all()
    # The roundings of a run are as often up as down.
    assert np.sqrt(np.mean(off**2)) < 2 * np.sqrt(run) * 2.0**-11 * np.sqrt(np.mean(expected**2))


@pytest.mark.android
def test_long_sums_are_carried_in_float32(emulated_kernel: Run, tmp_path: Path) -> None:
    """4096 ones: added up in float16 alone they would stay at 2048."""
    target, spec = arm(), halved(ConvSpec((4096,), 8, (2, 3)))
    shapes = {"x": (1, 4096, 2, 3), "weight": (8, 4096, 1, 1)}
    o = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    got = run_on(o, directly(spec, target), spec, target, tmp_path, emulated_kernel)
    np.testing.assert_array_equal(got, np.full((1, 8, 2, 3), 4096.0))


@pytest.mark.android
def test_a_cpu_without_the_instructions_is_refused(emulated_kernel: Run, tmp_path: Path) -> None:
    target, spec = arm(), halved(POINTWISE["1x1"])
    o = operands_of(spec, whole=True)
    run = partial(emulated_kernel, cpu="cortex-a53")
    with pytest.raises(AssertionError, match="a CPU with asimdhp, which this one lacks"):
        run_on(o, directly(spec, target), spec, target, tmp_path, run)


def assembly_of(choice: KernelChoice, spec: ConvSpec, target: Target) -> str:
    module = tvm.IRModule({"k": choice.build(spec, target).with_attr("global_symbol", "k")})
    device = machine_code.tvm_target(target)
    return str(tvm.tirx.build(module, target=device, pipeline="s_tir").inspect_source("asm"))


ON_STACK = r"st[rp]\s+q\d+, .*\[sp"


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_one_instruction_a_product(kernel: tuple[int, int]) -> None:
    target = arm("aarch64-linux-android")
    spec = halved(ConvSpec((64,), 64, (24, 24), kernel, pads=(kernel[0] // 2,) * 4))
    choice = directly(spec, target)
    products = re.findall(r"^\s+fmla\s+v\d+\.8h", assembly_of(choice, spec, target), re.MULTILINE)
    assert len(products) >= choice.tile.filters * choice.tile.pixels * kernel[1]


def test_tiles_of_float32_stay_in_registers() -> None:
    """A layer that is not stored as float16 is computed by vectors of two registers."""
    target = arm("aarch64-linux-android")
    spec = ConvSpec((96,), 96, (48, 48), epilogue=EPILOGUES["bias, relu, residual"])
    choice = directly(spec, in_floats(target))
    assert len(re.findall(ON_STACK, assembly_of(choice, spec, target))) < 8
