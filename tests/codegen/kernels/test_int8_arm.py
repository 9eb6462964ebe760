"""Kernels of bytes by Arm's instructions: compiled everywhere, run bit by bit in an emulator."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import tvm
from emulated_kernels import HOST, Run
from int8_cases import (
    AS_FLOATS,
    REQUANTISED,
    RESIDUAL,
    best,
    check_extremes,
    check_meaning,
    check_pruned,
    quantised,
)
from kernel_cases import DENSE, DEPTHWISE, GROUPED, POINTWISE, TRANSPOSED

from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.epilogue import Epilogue
from graphopt.codegen.kernels.low_precision.int8_choice import candidates
from graphopt.codegen.linking import machine_code
from graphopt.codegen.targets import load_target

UNITS = ("asimd", "asimddp", "i8mm")


@pytest.mark.android
@pytest.mark.parametrize(("unit", "other"), [("asimd", 128), ("asimddp", 7), ("i8mm", 7)])
@pytest.mark.parametrize(("number", "case"), list(enumerate([*DENSE, *POINTWISE])))
def test_dense(
    unit: str, other: int, number: int, case: str, emulated_kernel: Run, tmp_path: Path
) -> None:
    # Each zero point with every other convolution: emulation takes its time.
    zero = other if number % 2 else 0
    target = load_target("cpu", HOST, unit)
    spec = quantised({**DENSE, **POINTWISE}[case], zero)
    choice = best(spec, target, "conv_int8_dot")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path, emulated_kernel)


@pytest.mark.android
@pytest.mark.parametrize(("unit", "vectors"), [("asimd", 1), ("asimddp", 4), ("i8mm", 2)])
@pytest.mark.parametrize(
    ("case", "zero"), [("3x3", 128), ("3x3", 0), ("1x1, runs of channels", 7), ("stride 2", 7)]
)
def test_pruned(
    unit: str, vectors: int, case: str, zero: int, emulated_kernel: Run, tmp_path: Path
) -> None:
    target = load_target("cpu", HOST, unit)
    conv = {**DENSE, **POINTWISE}[case]
    check_pruned(conv, zero, target, tmp_path, emulated_kernel, vectors=vectors)


@pytest.mark.android
@pytest.mark.parametrize(("number", "case"), list(enumerate(DEPTHWISE)))
def test_depthwise(number: int, case: str, emulated_kernel: Run, tmp_path: Path) -> None:
    target = load_target("cpu", HOST)
    spec = quantised(DEPTHWISE[case], 7 if number % 2 else 0)
    choice = best(spec, target, "conv_int8_depthwise")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path, emulated_kernel)


@pytest.mark.android
@pytest.mark.parametrize("epilogue", [RESIDUAL, AS_FLOATS], ids=["residual", "floats"])
@pytest.mark.parametrize(
    "case",
    [
        *("3x3", "1x1", "depthwise 3x3", "transposed 4x4, stride 2"),
        *("groups of whole blocks", "groups that share blocks"),
    ],
)
@pytest.mark.parametrize("unit", UNITS)
def test_every_ending(
    unit: str, case: str, epilogue: Epilogue, emulated_kernel: Run, tmp_path: Path
) -> None:
    target = load_target("cpu", HOST, unit)
    conv = {**DENSE, **POINTWISE, **DEPTHWISE, **TRANSPOSED, **GROUPED}[case]
    spec = quantised(conv, 5, epilogue, target.lanes)
    check_meaning(candidates(spec, target)[0], spec, target, tmp_path, emulated_kernel)


@pytest.mark.android
@pytest.mark.parametrize("extremes", [(255, -128), (255, 127), (0, -128), (0, 127)])
@pytest.mark.parametrize("unit", UNITS)
def test_products_do_not_overflow(
    unit: str, extremes: tuple[int, int], emulated_kernel: Run, tmp_path: Path
) -> None:
    target = load_target("cpu", HOST, unit)
    check_extremes(*extremes, target, tmp_path, emulated_kernel)


@pytest.mark.android
@pytest.mark.parametrize(("unit", "cpu"), [("asimddp", "cortex-a53"), ("i8mm", "neoverse-n1")])
def test_a_cpu_without_the_instructions_is_refused(
    unit: str, cpu: str, emulated_kernel: Run, tmp_path: Path
) -> None:
    target = load_target("cpu", HOST, unit)
    spec = quantised(POINTWISE["1x1"], 0)
    choice = candidates(spec, target)[0]
    with pytest.raises(AssertionError, match=f"a CPU with {unit}, which this one lacks"):
        check_meaning(choice, spec, target, tmp_path, partial(emulated_kernel, cpu=cpu))


PRODUCT = {"asimd": "smull2?", "asimddp": "sdot", "i8mm": "usdot"}
"""The instruction that multiplies, 8 or 16 pairs at a time."""


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_one_instruction_a_product(unit: str, kernel: tuple[int, int]) -> None:
    target = load_target("cpu", "aarch64-linux-android", unit)
    pads = (kernel[0] // 2,) * 4
    spec = quantised(ConvSpec((64,), 64, (24, 24), kernel, pads=pads), 5, REQUANTISED)
    choice = candidates(spec, target)[0]
    assert choice.kernel == "conv_int8_dot"
    assert choice.features(target) == {"asimd": (), "i8mm": ("asimddp", "i8mm")}.get(unit, (unit,))
    module = tvm.IRModule({"k": choice.build(spec, target).with_attr("global_symbol", "k")})
    device = machine_code.tvm_target(target)
    assembly = tvm.tirx.build(module, target=device, pipeline="s_tir").inspect_source("asm")

    def count(what: str) -> int:
        return len(re.findall(rf"^\s+{what}\s", assembly, re.MULTILINE))

    found = {name: count(what) for name, what in PRODUCT.items()}
    (number,) = (n for n in found.values() if n)
    assert found[unit] == number
    # A tile is unrolled for the taps of a row of the kernel, at either edge and in between.
    pairs = choice.tile.filters * choice.tile.pixels * kernel[1] * (2 if unit == "asimd" else 1)
    assert number >= pairs
    # And one that adds them up.
    assert count("sadalp") == (number if unit == "asimd" else 0)
    assert not count("saddlp")
    # Of more than 30 vectors hardly any is put on the stack.
    assert count(r"st[rp]\s+q\d+, .*\[sp.*") < 16
