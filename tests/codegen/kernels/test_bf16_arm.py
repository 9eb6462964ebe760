"""Kernels of bfloat16 by Arm's instructions: compiled everywhere, run in an emulator."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tvm
from bf16_cases import (
    Operands,
    Values,
    any_numbers,
    best,
    check_exact,
    check_meaning,
    halved,
    run_on,
)
from emulated_kernels import HOST, Run
from kernel_cases import DENSE, DEPTHWISE, EPILOGUES, POINTWISE
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.low_precision.bf16_choice import candidates
from graphopt.codegen.kernels.low_precision.bfloat16 import rounded
from graphopt.codegen.linking import machine_code
from graphopt.codegen.targets import Target, load_target, with_bfloat16


def arm(host: str = HOST) -> Target:
    """An Arm CPU that has bfloat16."""
    return with_bfloat16(load_target("cpu", host, "bf16"), "bf16")


@pytest.mark.android
@pytest.mark.parametrize("kernel", ["conv_bf16_dot", "conv_bf16_squares"])
@pytest.mark.parametrize("case", [*DENSE, *POINTWISE])
def test_dense(case: str, kernel: str, emulated_kernel: Run, tmp_path: Path) -> None:
    target = arm()
    spec = halved({**DENSE, **POINTWISE}[case])
    choice = best(spec, target, kernel)
    assert (choice is None) == (kernel == "conv_bf16_squares" and spec.x.lanes < 4)
    if choice is None:
        return
    check_exact(choice, spec, target, tmp_path, emulated_kernel)


@pytest.mark.android
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise(case: str, emulated_kernel: Run, tmp_path: Path) -> None:
    target = arm()
    spec = halved(DEPTHWISE[case])
    (choice, *_) = candidates(spec, target)
    assert choice.kernel == "conv_bf16_depthwise"
    check_exact(choice, spec, target, tmp_path, emulated_kernel)


@pytest.mark.android
@pytest.mark.parametrize("floats", [False, True], ids=["bfloat16", "floats"])
@pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise 3x3"])
def test_any_numbers(case: str, floats: bool, emulated_kernel: Run, tmp_path: Path) -> None:
    target = arm()
    conv = {**DENSE, **POINTWISE, **DEPTHWISE}[case]
    spec = halved(conv, EPILOGUES["bias, relu, residual"], floats=floats, lanes=target.lanes)
    check_meaning(candidates(spec, target)[0], spec, target, tmp_path, emulated_kernel)


@pytest.mark.android
@pytest.mark.parametrize("epilogue", ["bias", "swish", "two vectors and two tensors"])
def test_every_ending(epilogue: str, emulated_kernel: Run, tmp_path: Path) -> None:
    target = arm()
    conv = ConvSpec((20,), 40, (9, 23), (3, 3), pads=(1, 1, 1, 1))
    spec = halved(conv, EPILOGUES[epilogue], floats=True, lanes=target.lanes)
    check_meaning(candidates(spec, target)[0], spec, target, tmp_path, emulated_kernel)


def to_odd(exact: NDArray[np.float64]) -> Values:
    """As float32, rounded to odd: towards zero, and the last bit set of what is not exact."""
    near = exact.astype(np.float32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(exact)
    down: Values = np.where(beyond, np.nextafter(near, np.float32(0)), near)
    inexact = down.astype(np.float64) != exact
    bits: NDArray[np.uint32] = down.view(np.uint32) | inexact.astype(np.uint32)
    return bits.view(np.float32)


@pytest.mark.android
@pytest.mark.parametrize("kernel", ["conv_bf16_dot", "conv_bf16_squares"])
def test_sums_are_rounded_to_odd(kernel: str, emulated_kernel: Run, tmp_path: Path) -> None:
    """Two words' products, bit by bit: a word's sum is rounded, and that of both."""
    target = arm()
    spec = halved(ConvSpec((4,), 16, (5, 31)), floats=True, lanes=target.lanes)
    o = any_numbers(spec)
    choice = best(spec, target, kernel)
    assert choice is not None
    got = run_on(o, choice, spec, target, tmp_path, emulated_kernel)
    x, weight = (v.astype(np.float64) for v in (o.x[0], rounded(o.weight)[:, :, 0, 0]))
    products = weight[:, :, None, None] * x  # (filters, channels, height, width), exact
    pairs = [to_odd(products[:, c] + products[:, c + 1]).astype(np.float64) for c in (0, 2)]
    np.testing.assert_array_equal(got[0], to_odd(pairs[0] + pairs[1]))


@pytest.mark.android
def test_the_cpu_rounds_alike(emulated_kernel: Run, tmp_path: Path) -> None:
    """What is stored, ties and tiny numbers among it, is what NumPy makes of it."""
    target = arm()
    spec = halved(ConvSpec((16,), 16, (8, 40), (1, 1), groups=16), EPILOGUES["bias"])
    o = any_numbers(spec)
    ties = np.random.default_rng(1).integers(-600, 600, o.x.shape).astype(np.float32)
    o = o._replace(x=rounded(ties), weight=np.full_like(o.weight, 1.0))
    (choice, *_) = candidates(spec, target)

    def check(numbers: Operands) -> None:
        got = run_on(numbers, choice, spec, target, tmp_path, emulated_kernel)
        np.testing.assert_array_equal(got, spec.reference(*numbers))

    check(o._replace(channels=[np.full(16, 0.5, np.float32)]))
    check(o._replace(channels=[np.full(16, 1e-39, np.float32)], x=np.zeros_like(o.x)))


@pytest.mark.android
def test_a_cpu_without_the_instructions_is_refused(emulated_kernel: Run, tmp_path: Path) -> None:
    target = arm()
    spec = halved(POINTWISE["1x1"])
    run = partial(emulated_kernel, cpu="neoverse-n1")
    with pytest.raises(AssertionError, match="a CPU with bf16, which this one lacks"):
        check_exact(candidates(spec, target)[0], spec, target, tmp_path, run)


@pytest.mark.parametrize(("name", "product"), [("squares", "bfmmla"), ("dot", "bfdot")])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_one_instruction_a_product(kernel: tuple[int, int], name: str, product: str) -> None:
    target = arm("aarch64-linux-android")
    spec = halved(ConvSpec((64,), 64, (24, 24), kernel, pads=(kernel[0] // 2,) * 4))
    assert candidates(spec, target)[0].kernel == "conv_bf16_squares"
    choice = best(spec, target, f"conv_bf16_{name}")
    assert choice is not None
    assert choice.features(target) == ("bf16",)
    module = tvm.IRModule({"k": choice.build(spec, target).with_attr("global_symbol", "k")})
    device = machine_code.tvm_target(target)
    assembly = tvm.tirx.build(module, target=device, pipeline="s_tir").inspect_source("asm")
    assert len(re.findall(rf"^\s+{product}\s", assembly, re.MULTILINE)) >= (
        choice.tile.filters * choice.tile.pixels * kernel[1]
    )
    assert re.search(r"^\s+bfcvtn\s", assembly, re.MULTILINE)
    # Of more than 30 vectors hardly any is put on the stack.
    assert len(re.findall(r"st[rp]\s+q\d+, .*\[sp", assembly)) < 16
