"""Every kernel of bytes against its NumPy reference, bit by bit, by every instruction at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from int8_cases import (
    AS_FLOATS,
    REQUANTISED,
    RESIDUAL,
    SCALED,
    best,
    check_alike,
    check_extremes,
    check_meaning,
    check_pruned,
    pruned_weight,
    quantised,
    scalar,
    sparse,
)
from kernel_cases import (
    DENSE,
    DEPTHWISE,
    GROUPED,
    GROUPED_WITH_TILES,
    POINTWISE,
    TRANSPOSED,
    TRANSPOSED_WITH_TILES,
    WIDE,
    WINOGRAD,
    WITH_TILES,
)

from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.epilogue import Epilogue, EpilogueStep, Operand
from graphopt.codegen.kernels.low_precision.int8_choice import candidates, punched
from graphopt.codegen.targets import Target, load_target
from graphopt.codegen.targets.cpu import INTEGER_UNITS, VECTOR_UNITS, IntegerUnit, describe
from graphopt.ir.block_structure import Block
from graphopt.runtime.cpu import cpu_features

NEON = VECTOR_UNITS["neon"]
UNITS = {unit.tiles or unit.dot: unit for unit in INTEGER_UNITS if unit.lanes > NEON.lanes}


def target_of(unit: IntegerUnit) -> Target:
    """This CPU, as if these were its best instructions for bytes."""
    if not unit.features <= cpu_features():
        pytest.skip(f"this CPU lacks one of {', '.join(sorted(unit.features))}")
    here = load_target("cpu")
    vectors = next(v for v in VECTOR_UNITS.values() if v.lanes == unit.lanes)
    attributes = [*here.tvm.get("mattr", []), *unit.attributes]
    plain = describe(vectors, {**here.tvm, "mattr": attributes})
    return replace(plain, dot=unit.dot, tiles=unit.tiles)


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("case", [*DENSE, *POINTWISE])
def test_dense_by_dot_products(case: str, zero: int, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    spec = quantised({**DENSE, **POINTWISE}[case], zero)
    choice = best(spec, target, "conv_int8_dot")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize(("number", "case"), list(enumerate(WINOGRAD)))
def test_winograds_algorithm(number: int, case: str, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    spec = quantised(WINOGRAD[case], 0 if number % 2 else 7)
    choice = best(spec, target, "conv_int8_winograd")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize("epilogue", [RESIDUAL, AS_FLOATS], ids=["residual", "floats"])
@pytest.mark.parametrize("unit", ["avx512_vnni", "avx_vnni", "avx2"])
@pytest.mark.parametrize("case", ["several tasks", "runs of channels", "uneven pads"])
def test_winograds_algorithm_by_every_unit(
    case: str, unit: str, epilogue: Epilogue, tmp_path: Path
) -> None:
    target = target_of(UNITS[unit])
    spec = quantised(WINOGRAD[case], 5, epilogue, target.lanes)
    choice = best(spec, target, "conv_int8_winograd")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


LARGEST = ConvSpec((227,), 16, (6, 9), (3, 3), pads=(1, 1, 1, 1))
"""Of the most channels with which sums of any weights fit Winograd's algorithm."""


@pytest.mark.parametrize(("byte", "weight"), [(255, 127), (255, -128), (0, -128), (0, 127)])
@pytest.mark.parametrize("unit", ["avx512_vnni", "avx2"])
def test_the_largest_sums_by_winograds_algorithm(
    unit: str, byte: int, weight: int, tmp_path: Path
) -> None:
    target = target_of(UNITS[unit])
    spec = quantised(LARGEST, 128, AS_FLOATS, target.lanes)
    choice = best(spec, target, "conv_int8_winograd")
    assert choice is not None
    check_alike(byte, weight, choice, spec, target, tmp_path)


def test_winograds_algorithm_is_for_sums_that_fit() -> None:
    target = target_of(UNITS["avx512_vnni"])
    spec = quantised(replace(LARGEST, in_channels=(512,)), 128)
    assert best(spec, target, "conv_int8_winograd") is None
    small = replace(spec, weight_sum=2**18 - 1)
    assert best(small, target, "conv_int8_winograd") is not None


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("case", WITH_TILES)
def test_dense_by_a_matrix_unit(case: str, zero: int, tmp_path: Path) -> None:
    target = target_of(UNITS["amx_int8"])
    spec = quantised(WITH_TILES[case], zero)
    choice = best(spec, target, "conv_int8_amx")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


BLOCKS = {
    "1x1": ConvSpec((64,), 64, (9, 37)),
    "1x1, 32 channels": ConvSpec((32,), 128, (7, 50)),
    "1x1, a part of a word": ConvSpec((130,), 120, (7, 33)),
    "1x1, stride 2": ConvSpec((40,), 120, (11, 70), (1, 1), (2, 2)),
    "1x1, pads": ConvSpec((70,), 64, (6, 40), (1, 1), pads=(1, 2, 0, 1)),
}
"""Convolutions whose bytes are stored 64 at once."""
BETWEEN = (Operand("step", 0), scalar(5.0), scalar(200.0))
BOUNDED = Epilogue((SCALED, EpilogueStep("as_byte", BETWEEN)))


@pytest.mark.parametrize("epilogue", [REQUANTISED, RESIDUAL, BOUNDED])
@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_by_a_matrix_unit(case: str, epilogue: Epilogue, tmp_path: Path) -> None:
    target = target_of(UNITS["amx_int8"])
    spec = quantised(BLOCKS[case], 7, epilogue)
    choice = best(spec, target, "conv_int8_amx")
    assert choice is not None
    assert choice.tile.filters == 4
    check_meaning(choice, spec, target, tmp_path)


def test_of_few_channels_a_matrix_unit_is_fastest() -> None:
    target = target_of(UNITS["amx_int8"])
    spec = quantised(ConvSpec((32,), 64, (184, 328)), 0)
    assert candidates(spec, target)[0].kernel == "conv_int8_amx"


@pytest.mark.parametrize(("number", "case"), list(enumerate(DEPTHWISE)))
def test_depthwise(number: int, case: str, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    spec = quantised(DEPTHWISE[case], 7 if number % 2 else 0)
    choice = best(spec, target, "conv_int8_depthwise")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize(("number", "case"), list(enumerate(WIDE)))
def test_depthwise_by_dot_products(number: int, case: str, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    epilogue = BOUNDED if number == 0 else REQUANTISED
    spec = quantised(WIDE[case], 0 if number % 2 else 7, epilogue)
    (choice, *_) = candidates(spec, target)
    assert choice.kernel == "conv_int8_words"
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("case", GROUPED)
def test_grouped(case: str, zero: int, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    spec = quantised(GROUPED[case], zero)
    choice = best(spec, target, "conv_int8_dot")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize("epilogue", [RESIDUAL, AS_FLOATS], ids=["residual", "floats"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("case", GROUPED_WITH_TILES)
def test_grouped_by_every_unit(case: str, unit: str, epilogue: Epilogue, tmp_path: Path) -> None:
    target = target_of(UNITS[unit])
    spec = quantised(GROUPED_WITH_TILES[case], 5, epilogue, target.lanes)
    kernel = "amx" if unit == "amx_int8" else "dot"
    choice = best(spec, target, f"conv_int8_{'transpose_' * spec.conv.transposed}{kernel}")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed(case: str, zero: int, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    spec = quantised(TRANSPOSED[case], zero)
    kernel = "depthwise" if spec.conv.depthwise else "dot"
    choice = best(spec, target, f"conv_int8_transpose_{kernel}")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize("epilogue", [RESIDUAL, AS_FLOATS], ids=["residual", "floats"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("case", TRANSPOSED_WITH_TILES)
def test_transposed_by_every_unit(case: str, unit: str, epilogue: Epilogue, tmp_path: Path) -> None:
    target = target_of(UNITS[unit])
    spec = quantised(TRANSPOSED_WITH_TILES[case], 5, epilogue, target.lanes)
    kernel = "amx" if unit == "amx_int8" else "dot"
    choice = best(spec, target, f"conv_int8_transpose_{kernel}")
    assert choice is not None
    check_meaning(choice, spec, target, tmp_path)


@pytest.mark.parametrize("epilogue", [RESIDUAL, AS_FLOATS], ids=["residual", "floats"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise 3x3"])
def test_every_unit(case: str, unit: str, epilogue: Epilogue, tmp_path: Path) -> None:
    target = target_of(UNITS[unit])
    spec = quantised({**DENSE, **POINTWISE, **DEPTHWISE}[case], 5, epilogue, target.lanes)
    check_meaning(candidates(spec, target)[0], spec, target, tmp_path)


SPARSE_CASES = {
    **{name: spec for name, spec in DENSE.items() if not spec.planar},
    **POINTWISE,
    "several groups": ConvSpec((66,), 72, (12, 50), (3, 3), pads=(1, 1, 1, 1)),
    "1x1, several groups": ConvSpec((130,), 88, (9, 37)),
}


@pytest.mark.parametrize(("number", "case"), list(enumerate(SPARSE_CASES)))
def test_pruned_by_dot_products(number: int, case: str, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    check_pruned(SPARSE_CASES[case], 7 if number % 2 else 0, target, tmp_path, vectors=1)


@pytest.mark.parametrize("zero", [0, 5])
@pytest.mark.parametrize("vectors", [1, 2, 4])
@pytest.mark.parametrize("unit", [name for name in UNITS if name != "amx_int8"])
def test_pruned_by_every_unit(unit: str, vectors: int, zero: int, tmp_path: Path) -> None:
    target = target_of(UNITS[unit])
    check_pruned(SPARSE_CASES["several groups"], zero, target, tmp_path, vectors=vectors)


@pytest.mark.parametrize("epilogue", [RESIDUAL, AS_FLOATS], ids=["residual", "floats"])
@pytest.mark.parametrize("part", [0.6, 1.0], ids=["pruned", "nothing left"])
def test_pruned_with_every_ending(part: float, epilogue: Epilogue, tmp_path: Path) -> None:
    target = target_of(UNITS["avx512_vnni"])
    spec = quantised(SPARSE_CASES["1x1, several groups"], 5, epilogue)
    pruned = sparse(spec, target, "conv_int8_sparse_dot", Block(16, 4), part)
    choice = best(pruned, target, "conv_int8_sparse_dot")
    assert choice is not None
    check_meaning(choice, pruned, target, tmp_path, part=part)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_a_sparse_kernel_is_taken_where_much_is_zero(kernel: tuple[int, int]) -> None:
    target = replace(target_of(UNITS["avx512_vnni"]), tiles="")
    pads = (kernel[0] // 2,) * 4
    spec = quantised(ConvSpec((128,), 128, (46, 82), kernel, pads=pads), 0)
    taken = {}
    for part in (0, 0.1, 0.35, 0.6):
        weight = pruned_weight(spec, part=part, group_of_zeros=False)
        known = punched(spec, weight, target)
        taken[part] = candidates(known, target)[0].kernel
    dense = "conv_int8_winograd" if kernel == (3, 3) else "conv_int8_dot"
    assert taken == {
        0: dense,
        0.1: dense,
        0.35: "conv_int8_sparse_dot",
        0.6: "conv_int8_sparse_dot",
    }


def test_products_do_not_saturate(tmp_path: Path) -> None:
    """The largest bytes times the largest weights, where `pmaddubsw` would end at 32767."""
    target = target_of(UNITS["avx2"])
    check_extremes(255, 127, target, tmp_path)
