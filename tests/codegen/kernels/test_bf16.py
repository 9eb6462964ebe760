"""Every kernel of bfloat16 against its NumPy reference, by every instruction at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bf16_cases import (
    any_numbers,
    best,
    check_exact,
    check_meaning,
    halved,
    run_on,
)
from kernel_cases import (
    DENSE,
    DEPTHWISE,
    EPILOGUES,
    GROUPED,
    GROUPED_WITH_TILES,
    POINTWISE,
    TRANSPOSED,
    TRANSPOSED_WITH_TILES,
    WIDE,
    WITH_TILES,
)

from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.low_precision.bf16_choice import candidates
from graphopt.codegen.kernels.low_precision.bfloat16 import bits_of, floats_of, rounded
from graphopt.codegen.targets import Target, load_target
from graphopt.runtime.cpu import cpu_features

UNITS = {"avx512_bf16": {"avx512_bf16"}, "amx_bf16": {"avx512_bf16", "amx_tile", "amx_bf16"}}


def target_of(unit: str) -> Target:
    """This CPU, as if these were its best instructions for bfloat16."""
    lacking = UNITS[unit] - cpu_features()
    if lacking:
        pytest.skip(f"this CPU lacks {', '.join(sorted(lacking))}")
    here = load_target("cpu")
    attributes = [*here.tvm.get("mattr", []), "+avx512bf16", "+amx-tile", "+amx-bf16"]
    return replace(here, bfloat16=unit, tvm={**here.tvm, "mattr": attributes})


@pytest.mark.parametrize("case", [*DENSE, *POINTWISE])
def test_dense_by_dot_products(case: str, tmp_path: Path) -> None:
    target = target_of("avx512_bf16")
    spec = halved({**DENSE, **POINTWISE}[case])
    choice = best(spec, target, "conv_bf16_dot")
    assert choice is not None
    check_exact(choice, spec, target, tmp_path)


TILED = {
    **WITH_TILES,
    "dilation 3, a stride": ConvSpec((33,), 20, (13, 60), (3, 3), (1, 2), (3, 3, 3, 3), (3, 3)),
}


@pytest.mark.parametrize("case", TILED)
def test_dense_by_a_matrix_unit(case: str, tmp_path: Path) -> None:
    target = target_of("amx_bf16")
    spec = halved(TILED[case])
    choice = best(spec, target, "conv_bf16_amx")
    assert choice is not None
    check_exact(choice, spec, target, tmp_path)


@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise(case: str, tmp_path: Path) -> None:
    target = target_of("avx512_bf16")
    spec = halved(DEPTHWISE[case])
    choice = best(spec, target, "conv_bf16_depthwise")
    assert choice is not None
    check_exact(choice, spec, target, tmp_path)


@pytest.mark.parametrize("case", WIDE)
def test_depthwise_in_pairs(case: str, tmp_path: Path) -> None:
    target = target_of("avx512_bf16")
    spec = halved(WIDE[case], EPILOGUES["bias, relu, residual"])
    (choice, *_) = candidates(spec, target)
    assert choice.kernel == "conv_bf16_pairs"
    check_exact(choice, spec, target, tmp_path)


@pytest.mark.parametrize("case", GROUPED)
def test_grouped(case: str, tmp_path: Path) -> None:
    target = target_of("avx512_bf16")
    spec = halved(GROUPED[case])
    choice = best(spec, target, "conv_bf16_dot")
    assert choice is not None
    check_exact(choice, spec, target, tmp_path)


@pytest.mark.parametrize("case", GROUPED_WITH_TILES)
def test_grouped_by_a_matrix_unit(case: str, tmp_path: Path) -> None:
    target = target_of("amx_bf16")
    spec = halved(GROUPED_WITH_TILES[case], EPILOGUES["bias, relu, residual"])
    choice = best(spec, target, f"conv_bf16_{'transpose_' * spec.conv.transposed}amx")
    assert choice is not None
    check_exact(choice, spec, target, tmp_path)


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed(case: str, tmp_path: Path) -> None:
    target = target_of("avx512_bf16")
    spec = halved(TRANSPOSED[case])
    kernel = "depthwise" if spec.conv.depthwise else "dot"
    choice = best(spec, target, f"conv_bf16_transpose_{kernel}")
    assert choice is not None
    check_exact(choice, spec, target, tmp_path)


@pytest.mark.parametrize("case", TRANSPOSED_WITH_TILES)
def test_transposed_by_a_matrix_unit(case: str, tmp_path: Path) -> None:
    target = target_of("amx_bf16")
    spec = halved(TRANSPOSED_WITH_TILES[case], EPILOGUES["bias, relu, residual"])
    choice = best(spec, target, "conv_bf16_transpose_amx")
    assert choice is not None
    check_exact(choice, spec, target, tmp_path)


@pytest.mark.parametrize("floats", [False, True], ids=["bfloat16", "floats"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise 3x3"])
def test_any_numbers(case: str, unit: str, floats: bool, tmp_path: Path) -> None:
    target = target_of(unit)
    conv = {**DENSE, **POINTWISE, **DEPTHWISE}[case]
    spec = halved(conv, EPILOGUES["bias, relu, residual"], floats=floats)
    check_meaning(candidates(spec, target)[0], spec, target, tmp_path)


@pytest.mark.parametrize("epilogue", ["bias", "swish", "two vectors and two tensors"])
@pytest.mark.parametrize("unit", UNITS)
def test_every_ending(unit: str, epilogue: str, tmp_path: Path) -> None:
    target = target_of(unit)
    conv = ConvSpec((20,), 40, (9, 23), (3, 3), pads=(1, 1, 1, 1))
    spec = halved(conv, EPILOGUES[epilogue], floats=True)
    check_meaning(candidates(spec, target)[0], spec, target, tmp_path)


@pytest.mark.parametrize("unit", UNITS)
def test_each_unit_has_its_kernel(unit: str) -> None:
    target = target_of(unit)
    spec = halved(WITH_TILES["several tasks"])
    chosen = candidates(spec, target)[0]
    assert chosen.kernel == {"avx512_bf16": "conv_bf16_dot", "amx_bf16": "conv_bf16_amx"}[unit]
    assert set(chosen.features(target)) == UNITS[unit]


@pytest.mark.parametrize("unit", UNITS)
def test_nothing_is_left_unwritten(unit: str, tmp_path: Path) -> None:
    """Lanes past the last filter are numbers: a kernel that reads them multiplies them by zero."""
    target = target_of(unit)
    spec = halved(ConvSpec((32,), 40, (6, 20), (3, 3), pads=(1, 1, 1, 1)))
    every = halved(replace(spec.conv, out_channels=64))
    assert spec.output_shape() == every.output_shape()
    o = any_numbers(spec)
    seen = replace(spec, conv=replace(spec.conv, out_channels=40))
    got = run_on(o, candidates(seen, target)[0], seen, target, tmp_path)
    assert np.isfinite(got).all()
    assert spec.vectors(16) * 16 == 64


def test_numbers_are_rounded_half_to_even() -> None:
    numbers = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.14159], np.float32)
    np.testing.assert_array_equal(rounded(numbers)[:4], [1.0, 1.0, 1 + 2**-6, 1 + 2**-7])
    everything = np.arange(2**16, dtype=np.uint16)
    normal = (everything & 0x7F80) != 0
    np.testing.assert_array_equal(
        bits_of(floats_of(everything))[normal & (everything & 0x7FFF <= 0x7F80)],
        everything[normal & (everything & 0x7FFF <= 0x7F80)],
    )
    assert np.isnan(rounded(np.array([np.nan], np.float32))).all()
    assert rounded(np.array([3.4e38], np.float32)) == np.float32(np.inf)
    assert not bits_of(np.array([1e-40], np.float32)).any()


def test_the_cpu_rounds_alike(tmp_path: Path) -> None:
    """What vcvtneps2bf16 stores, ties and tiny numbers among it, is what NumPy makes of it."""
    target = target_of("avx512_bf16")
    conv = ConvSpec((16,), 16, (8, 40), (1, 1), groups=16)
    spec = halved(replace(conv, epilogue=EPILOGUES["bias"]), EPILOGUES["bias"])
    o = any_numbers(spec)
    ties = np.random.default_rng(1).integers(-600, 600, o.x.shape).astype(np.float32)
    o = o._replace(x=rounded(ties), weight=np.full_like(o.weight, 1.0), channels=[o.channels[0]])
    tiny = o._replace(channels=[np.full(16, 1e-39, np.float32)], x=np.zeros_like(o.x))
    half = o._replace(channels=[np.full(16, 0.5, np.float32)])
    (choice, *_) = candidates(spec, target)
    for number, numbers in enumerate((half, tiny)):
        folder = tmp_path / str(number)
        folder.mkdir()
        got = run_on(numbers, choice, spec, target, folder)
        np.testing.assert_array_equal(got, spec.reference(*numbers))
