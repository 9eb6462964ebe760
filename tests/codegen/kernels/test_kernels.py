"""Every kernel template against its NumPy reference, on every target."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from kernel_cases import (
    CASES,
    DENSE,
    DEPTHWISE,
    EPILOGUES,
    GROUPED,
    POINTWISE,
    SUM,
    TRANSPOSED,
    WINOGRAD,
    Values,
    blocked,
    extensions,
    planar,
    run_kernel,
)

from graphopt.codegen.kernels.conv import choice as kernel_choice
from graphopt.codegen.kernels.conv import conv_block_sparse
from graphopt.codegen.kernels.conv.choice import KernelChoice
from graphopt.codegen.kernels.conv.template import ConvSpec, pack_channels
from graphopt.codegen.kernels.epilogue import OPERATIONS, Epilogue, EpilogueStep
from graphopt.codegen.linking import machine_code
from graphopt.codegen.targets import Target, load_target, with_half_arithmetic
from graphopt.codegen.targets.cpu import VECTOR_UNITS, describe
from graphopt.ir.arrays import Array
from graphopt.ir.block_structure import BLOCKS, Block, expand
from graphopt.runtime import bundle
from graphopt.runtime.plan import Launch, Plan, Tensor


@pytest.fixture(params=["cpu", pytest.param("opencl", marks=pytest.mark.opencl)])
def target(request: pytest.FixtureRequest) -> Target:
    return load_target(request.param)


def random_weight(spec: ConvSpec) -> Values:
    """(O, I of a group, kh, kw), for outputs of about 1."""
    shape = (spec.out_channels, sum(spec.in_channels) // spec.groups, *spec.kernel)
    weight = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    return np.asarray(weight / np.float32(np.sqrt(weight[0].size)))


def check_meaning(
    choice: KernelChoice,
    spec: ConvSpec,
    target: Target,
    folder: Path,
    tolerance: float = 2e-5,
    weight: Values | None = None,
) -> None:
    """What a kernel computes for random numbers is what its specification means."""
    weight = random_weight(spec) if weight is None else weight
    lanes = target.lanes
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Values:
        return rng.standard_normal(shape, dtype=np.float32)

    channels_in = sum(spec.in_channels)
    x = normal(1, channels_in, *spec.size)
    vectors = [normal(spec.out_channels) for _ in range(spec.epilogue.count("channel"))]
    tensors = [
        normal(1, spec.out_channels, *spec.out_size) for _ in range(spec.epilogue.count("tensor"))
    ]
    index = choice.pack_index(weight, spec, target)
    operands: dict[str, Array] = {
        "x": x if spec.planar else blocked(x, lanes, spec.in_channels),
        "weight": choice.pack_weight(weight, spec, target),
        **({"index": index} if index is not None else {}),
        **{f"channel{i}": pack_channels(v, lanes, spec.out_runs) for i, v in enumerate(vectors)},
        **{f"tensor{i}": blocked(t, lanes, spec.out_runs) for i, t in enumerate(tensors)},
    }
    stored = [
        value if value is index else value.astype(spec.dtype(name))
        for name, value in operands.items()
    ]
    out, dtype = spec.output_shape(lanes), spec.dtype("y")
    got = run_kernel(choice.build(spec, target), stored, out, target, folder, dtype)
    expected: np.ndarray = spec.reference(x, weight, vectors, tensors)
    np.testing.assert_allclose(planar(got, spec.out_runs), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_equals_its_meaning(case: str, target: Target, tmp_path: Path) -> None:
    spec = CASES[case]
    check_meaning(kernel_choice.candidates(spec, target)[0], spec, target, tmp_path)


def winograd(spec: ConvSpec, target: Target, square: int) -> KernelChoice:
    """The best choice among Winograd kernels of a size."""
    choices = kernel_choice.candidates(spec, target)
    return next(c for c in choices if c.kernel == "conv_winograd" and c.tile.square == square)


@pytest.mark.parametrize("square", [2, 4])
@pytest.mark.parametrize("case", WINOGRAD)
def test_winograd_equals_its_meaning(
    case: str, square: int, target: Target, tmp_path: Path
) -> None:
    # Most of these are left to the direct kernel: they are small.
    spec = replace(WINOGRAD[case], epilogue=EPILOGUES["bias, relu, residual"])
    check_meaning(winograd(spec, target, square), spec, target, tmp_path)


BLOCK_SPARSE = {name: spec for name, spec in {**DENSE, **POINTWISE}.items() if not spec.planar} | {
    "filters that fill no block": ConvSpec((16,), 20, (5, 9), (3, 3), pads=(1, 1, 1, 1)),
}


def punched_weight(spec: ConvSpec, block: Block, density: float = 0.5) -> Values:
    """Random weights of which whole blocks are zero; the last filters lose everything."""
    weight = random_weight(spec)
    mask = np.random.default_rng(2).random(block.mask_shape(weight.shape)) < density
    mask[-1] = False
    return np.asarray(weight * expand(mask, block, weight.shape))


def block_sparse(
    spec: ConvSpec,
    weight: Values,
    target: Target,
    among: Iterable[Block] = BLOCKS.values(),
) -> tuple[KernelChoice, ConvSpec]:
    """The best choice among block-sparse kernels."""
    spec = conv_block_sparse.punched(spec, weight, target, among)
    choices = kernel_choice.candidates(spec, target)
    return next(c for c in choices if c.kernel == kernel_choice.SPARSE), spec


of_few_and_of_one_channel = pytest.mark.parametrize("block", [BLOCKS["8x4"], BLOCKS["16x1"]])


@of_few_and_of_one_channel
@pytest.mark.parametrize("case", BLOCK_SPARSE)
def test_block_sparse_equals_its_meaning(
    case: str, block: Block, target: Target, tmp_path: Path
) -> None:
    spec = replace(BLOCK_SPARSE[case], epilogue=EPILOGUES["bias, relu, residual"])
    weight = punched_weight(spec, block)
    choice, sparse = block_sparse(spec, weight, target, [block])
    check_meaning(choice, sparse, target, tmp_path, weight=weight)


@pytest.mark.parametrize("block", BLOCKS.values())
def test_block_sparse_of_every_block(block: Block, target: Target, tmp_path: Path) -> None:
    spec = BLOCK_SPARSE["filters that fill no block"]
    weight = punched_weight(spec, block)
    choice, sparse = block_sparse(spec, weight, target, [block])
    check_meaning(choice, sparse, target, tmp_path, weight=weight)


@of_few_and_of_one_channel
@pytest.mark.parametrize("unit", VECTOR_UNITS)
def test_block_sparse_with_vectors_of_every_width(unit: str, block: Block, tmp_path: Path) -> None:
    here = load_target("cpu")
    if VECTOR_UNITS[unit].lanes > here.lanes:
        pytest.skip(f"this CPU has no vectors of {VECTOR_UNITS[unit].lanes} floats")
    target = replace(describe(VECTOR_UNITS[unit], here.tvm), cpu_features=())
    spec = BLOCK_SPARSE["runs of channels"]
    weight = punched_weight(spec, block)
    choice, sparse = block_sparse(spec, weight, target, [block])
    check_meaning(choice, sparse, target, tmp_path, weight=weight)


@of_few_and_of_one_channel
@pytest.mark.parametrize(
    "target", ["cpu", *(pytest.param(t, marks=pytest.mark.opencl) for t in ("opencl", "adreno"))]
)
def test_block_sparse_with_half_precision_in_memory(
    target: str, block: Block, tmp_path: Path
) -> None:
    device, half = load_target(target), frozenset({"x", "weight", "y"})
    spec = replace(BLOCK_SPARSE["stride 2"], half=half)
    weight = punched_weight(spec, block)
    choice, sparse = block_sparse(spec, weight, device, [block])
    check_meaning(choice, sparse, device, tmp_path, tolerance=4e-3, weight=weight)


@of_few_and_of_one_channel
def test_sparse_only_where_it_pays(block: Block) -> None:
    target = load_target("cpu")

    def kernel_at(density: float, kernel: tuple[int, int]) -> str:
        pad = kernel[0] // 2
        spec = ConvSpec((128,), 128, (46, 82), kernel, pads=(pad,) * 4)
        weight = random_weight(spec)
        mask = np.random.default_rng(0).random(block.mask_shape(weight.shape)) < density
        weight *= expand(mask, block, weight.shape)
        return kernel_choice.choose(
            conv_block_sparse.punched(spec, weight, target), target, {}
        ).kernel

    assert [kernel_at(d, (1, 1)) for d in (0.97, 0.7)] == ["conv_1x1", kernel_choice.SPARSE]
    # Winograd's algorithm cannot leave out blocks, and is still faster than a half of the products.
    assert [kernel_at(d, (3, 3)) for d in (0.6, 0.1)] == ["conv_winograd", kernel_choice.SPARSE]


def test_tuning_tells_densities_apart() -> None:
    spec = BLOCK_SPARSE["1x1"]
    target = load_target("cpu")
    keys = {
        conv_block_sparse.punched(spec, punched_weight(spec, Block(), density), target).key
        for density in (1.0, 0.5, 0.25)
    }
    assert len(keys) == 3


@pytest.mark.parametrize("unit", VECTOR_UNITS)
@pytest.mark.parametrize("case", ["3x3", "1x1", "depthwise 5x5, stride 2", "Winograd"])
def test_vectors_of_every_width(case: str, unit: str, tmp_path: Path) -> None:
    here = load_target("cpu")
    if VECTOR_UNITS[unit].lanes > here.lanes:
        pytest.skip(f"this CPU has no vectors of {VECTOR_UNITS[unit].lanes} floats")
    # Arm's tiles, computed by this machine.
    target = replace(describe(VECTOR_UNITS[unit], here.tvm), cpu_features=())
    if case == "Winograd":
        spec = WINOGRAD["several tasks"]
        check_meaning(winograd(spec, target, 4), spec, target, tmp_path)
    else:
        check_meaning(
            kernel_choice.candidates(CASES[case], target)[0], CASES[case], target, tmp_path
        )


ON_STACK = {"avx2": r"vmovup[sd]\s+%ymm\d+, -?\d*\(%r[sb]p\)", "neon": r"st[rp]\s+q\d+, .*\[sp"}
"""A vector put on the stack."""


@pytest.mark.parametrize("unit", ON_STACK)
@pytest.mark.parametrize("kernel", ["conv_dense", "conv_1x1"])
def test_tiles_stay_in_registers(unit: str, kernel: str) -> None:
    haswell = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"}
    target = {
        "avx2": describe(VECTOR_UNITS["avx2"], haswell),
        "neon": load_target("cpu", "aarch64-linux-android"),
    }[unit]
    size = (3, 3) if kernel == "conv_dense" else (1, 1)
    spec = ConvSpec((96,), 96, (48, 48), size, epilogue=EPILOGUES["bias, relu, residual"])
    choice = next(c for c in kernel_choice.candidates(spec, target) if c.kernel == kernel)
    module = tvm.IRModule({"k": choice.build(spec, target).with_attr("global_symbol", "k")})
    device = machine_code.tvm_target(target)
    assembly = tvm.tirx.build(module, target=device, pipeline="s_tir").inspect_source("asm")
    assert re.search(r"vfmadd|fmla", assembly)
    # A few addresses are; of the usual tile's ten and more sums, hardly any.
    assert len(re.findall(ON_STACK[unit], assembly)) < 8


STORED = {
    "all": {"x", "weight", "channel0", "tensor0", "y"},
    "input": {"x", "tensor0"},
    "weight": {"weight"},
    "result": {"y"},
}
IN_HALF = {
    **{
        f"{name}, {what}": replace(CASES[name], half=frozenset(half))
        for name in ("1x1, runs of channels", "depthwise, runs of channels", "stride 2")
        for what, half in STORED.items()
    },
    "planar": replace(DENSE["planar"], half=frozenset({"weight", "y"})),
}


@pytest.mark.parametrize(
    "case", ["1x1, runs of channels, all", "depthwise, runs of channels, all", "stride 2, all"]
)
def test_half_precision_in_arithmetic(case: str, target: Target, tmp_path: Path) -> None:
    if target.kind == "gpu":
        target = with_half_arithmetic(target)
        if not {*target.extensions} <= extensions():
            pytest.skip("this device does not compute in half precision")
    # As a GPU would compute it, computed by this CPU, which rounds after each operation.
    target = replace(target, arithmetic="float16")
    spec = replace(IN_HALF[case], epilogue=EPILOGUES["bias, relu, residual"])
    choice = kernel_choice.candidates(spec, target)[0]
    sums = rf'T.alloc_\w+\(\(1,\), "float16x{target.lanes}"'
    assert re.search(sums, choice.build(spec, target).script())
    check_meaning(choice, spec, target, tmp_path, tolerance=2e-2)


@of_few_and_of_one_channel
def test_block_sparse_with_half_precision_in_arithmetic(block: Block, tmp_path: Path) -> None:
    target = replace(load_target("cpu"), arithmetic="float16")
    spec = replace(
        IN_HALF["1x1, runs of channels, all"], epilogue=EPILOGUES["bias, relu, residual"]
    )
    weight = punched_weight(spec, block)
    choice, sparse = block_sparse(spec, weight, target, [block])
    check_meaning(choice, sparse, target, tmp_path, tolerance=2e-2, weight=weight)


@pytest.mark.opencl
@pytest.mark.parametrize(
    "case", ["3x3", "1x1, runs of channels", "depthwise 7x7", "planar", "stride 2, input"]
)
def test_input_as_an_image(case: str, tmp_path: Path) -> None:
    target = load_target("adreno")
    spec = {**CASES, **IN_HALF}[case]
    tolerance = 4e-3 if spec.half else 2e-5
    check_meaning(
        kernel_choice.candidates(spec, target)[0], spec, target, tmp_path, tolerance=tolerance
    )
    (launch,) = bundle.read_bundle(tmp_path / "bundle").plan.launches
    # Single numbers are read of a planar input.
    assert len(launch.images) == (case != "planar")
    source = (tmp_path / "bundle" / "kernels.cl").read_text()
    assert ("image1d_buffer_t" in source) == (case != "planar")


@pytest.mark.parametrize("case", IN_HALF)
def test_half_precision_in_memory(case: str, target: Target, tmp_path: Path) -> None:
    spec = replace(IN_HALF[case], epilogue=EPILOGUES["bias, relu, residual"])
    choice = kernel_choice.candidates(spec, target)[0]
    check_meaning(choice, spec, target, tmp_path, tolerance=4e-3)


@pytest.mark.parametrize("square", [2, 4])
@pytest.mark.parametrize("case", ["runs of channels", "dilation 2"])
def test_winograd_with_half_precision_in_memory(
    case: str, square: int, target: Target, tmp_path: Path
) -> None:
    epilogue, half = EPILOGUES["bias, relu, residual"], frozenset(STORED["all"])
    spec = replace(WINOGRAD[case], epilogue=epilogue, half=half)
    check_meaning(winograd(spec, target, square), spec, target, tmp_path, tolerance=4e-3)


@pytest.mark.parametrize(
    ("cases", "name"),
    [
        (DENSE, "conv_dense"),
        (GROUPED, "conv_dense"),
        (POINTWISE, "conv_1x1"),
        (DEPTHWISE, "conv_depthwise"),
        (TRANSPOSED, "conv_transpose"),
    ],
)
def test_each_template_takes_its_own(cases: dict[str, ConvSpec], name: str, target: Target) -> None:
    chosen = {kernel_choice.candidates(spec, target)[0].kernel for spec in cases.values()}
    assert chosen == {name}


@pytest.mark.parametrize(
    ("what", "square"),
    [
        ({}, 4),
        ({"pads": (2, 2, 2, 2), "dilations": (2, 2)}, 4),
        ({"strides": (2, 2)}, 1),
        ({"kernel": (5, 5)}, 1),
        ({"pads": (2, 1, 2, 1), "dilations": (2, 1)}, 4),
        ({"in_channels": (3,), "planar": True}, 1),
        # Too few squares to keep some cores busy, and to be worth fetching the weights.
        ({"in_channels": (512,), "out_channels": 512, "size": (7, 7)}, 1),
        # The transforms would cost more than the products that they save.
        ({"in_channels": (8,), "out_channels": 8, "size": (13, 13)}, 1),
    ],
)
def test_winograd_where_it_pays(what: dict[str, Any], square: int) -> None:
    spec = ConvSpec((128,), 128, (46, 46), (3, 3), pads=(1, 1, 1, 1))
    assert (
        kernel_choice.candidates(replace(spec, **what), load_target("cpu"))[0].tile.square == square
    )


def test_functions_share_their_working_memory() -> None:
    def function(*sizes: int) -> machine_code.DeviceFunction:
        buffers = tuple(Tensor(shape=(n,), dtype="float32", arena=None) for n in sizes)
        call = machine_code.DeviceCall("k", tuple(range(1, 1 + len(sizes))), (1,), (1,))
        return machine_code.DeviceFunction((call,), buffers)

    functions = {"small": function(8), "large": function(5, 20)}
    plan = Plan(
        arenas=(64,),
        tensors=(Tensor(shape=(16,), dtype="float32", arena=0),),
        launches=tuple(Launch(kernel=k, arguments=(0,), layer="") for k in functions),
        inputs={},
        outputs={},
    )
    shared = machine_code.with_launches(plan, functions)
    assert shared.arenas == (64, 32, 80)
    places = [[shared.tensors[a].arena for a in launch.arguments] for launch in shared.launches]
    assert places == [[1], [1, 2]]


@pytest.mark.parametrize("operation", ["exp", "sigmoid", "tanh"])
def test_cpu_exponentials_over_their_whole_range(operation: str, tmp_path: Path) -> None:
    target = load_target("cpu")
    ramp = np.linspace(-200, 85, 16 * 64, dtype=np.float32).reshape(1, 16, 8, 8)
    spec = ConvSpec((16,), 16, (8, 8), epilogue=Epilogue((EpilogueStep(operation, (SUM,)),)))
    identity = np.eye(16, dtype=np.float32)[:, :, None, None]
    choice = kernel_choice.candidates(spec, target)[0]
    operands = [blocked(ramp, target.lanes, (16,)), choice.pack_weight(identity, spec, target)]
    out = spec.output_shape(target.lanes)
    got = run_kernel(choice.build(spec, target), operands, out, target, tmp_path)
    reference: Callable[..., np.ndarray] = OPERATIONS[operation].reference
    with np.errstate(over="ignore"):
        expected = reference(ramp.astype(np.float64))
    np.testing.assert_allclose(planar(got, (16,)), expected, rtol=5e-7, atol=3e-7)
