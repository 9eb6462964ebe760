"""OpenCL C for TIR: that it means the same, and says what devices need to hear."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import tirx
from tvm.tirx.script import builder

from graphopt.codegen.kernels.emit import argument, broadcast, grid, kernel, private
from graphopt.codegen.linking import machine_code
from graphopt.codegen.linking.kernel_bundle import write_kernels
from graphopt.codegen.linking.opencl_words import DataType, Names, number
from graphopt.codegen.targets import Target, load_target
from graphopt.errors import Unsupported
from graphopt.ir.arrays import Array
from graphopt.runtime.open import open_bundle
from graphopt.runtime.plan import Launch, Plan, Tensor

GPU = load_target("opencl")
Write = Callable[[Any, Any], None]


def elementwise(
    target: Target, sizes: tuple[int, int], dtypes: tuple[str, str], write: Write, tasks: int
) -> Any:
    """A kernel k of x and y: so many tasks, each of which writes to y what it reads of x."""
    with kernel("k") as get:
        x = argument("x", sizes[:1], dtypes[0])
        y = argument("y", sizes[1:], dtypes[1])
        with grid(target, tasks) as (task,):
            write(x, y) if tasks == 1 else write((x, task), (y, task))
    return get()


def source_of(function: Any, target: Target = GPU) -> str:
    device = machine_code.tvm_target(target)
    with device:
        source, _ = machine_code.opencl_source({"k": function}, device, images=target.images)
    return source.decode()


def run(function: Any, x: Array, size: int, dtype: str, target: Target, folder: Path) -> Array:
    plan = Plan(
        arenas=(),
        tensors=(
            Tensor(shape=x.shape, dtype=str(x.dtype), arena=None),
            Tensor(shape=(size,), dtype=dtype, arena=None),
        ),
        launches=(Launch(kernel="k", arguments=(0, 1), layer=""),),
        inputs={"x": 0},
        outputs={"y": 1},
    )
    write_kernels({"k": function}, plan, b"", target, folder)
    return open_bundle(folder).run({"x": x})["y"]


FLOATS = [0.0, -0.0, 1.0, -1 / 3, math.pi, 1e-45, 1.1754944e-38, 3.4028234663852886e38, 65504.0]


@pytest.mark.parametrize("value", FLOATS)
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_constants_to_the_last_bit(value: float, kind: str) -> None:
    text = number(value, DataType(kind)).text
    assert text.endswith("f") == (kind == "float32")
    read, meant = (np.array(v, kind) for v in (float(text.removesuffix("f")), value))
    assert read.tobytes() == meant.tobytes()


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (math.inf, "float32", "INFINITY"),
        (-math.inf, "float32", "-INFINITY"),
        (math.nan, "float64", "(double)NAN"),
        (0.1, "float16", "(half)0.1f"),
        (-math.inf, "float16", "(half)-INFINITY"),
        (-3, "int32", "-3"),
        (-(2**31), "int32", "(-2147483647 - 1)"),
        (-(2**63), "int64", "(-9223372036854775807L - 1)"),
        (2**63, "uint64", "9223372036854775808UL"),
        (-128, "int8", "(char)(-127 - 1)"),
        (True, "bool", "1"),
    ],
)
def test_constants_of_every_type(value: float, kind: str, text: str) -> None:
    assert number(value, DataType(kind)).text == text


def test_no_variable_is_called_like_a_word_of_the_language() -> None:
    names = Names()
    wishes = ["half", "max", "x", "x", "lv.1", "3d", "_x", "value"]
    assert [names.new(wish) for wish in wishes] == [
        *("half_1", "max_1", "x", "x_1", "lv_1", "v3d", "v_x", "value_1")
    ]


NUMBERS = 64


def random_expression(draw: random.Random, leaves: list[Any], depth: int) -> Any:
    """Integers that stay small, of all operators; conditions are among them, as 0 and 1."""
    if depth == 0 or draw.random() < 0.1:
        return draw.choice([*leaves, tirx.const(draw.randint(-9, 9), "int32")])
    a, b, c = (random_expression(draw, leaves, depth - 1) for _ in range(3))
    small = tirx.truncmod(a, 64)
    condition = draw.choice([a < b, a <= b, tirx.EQ(a, b), tirx.NE(a, b), a > b, a >= b])
    other = draw.choice([b < c, c <= a])
    ways: list[Callable[[], Any]] = [
        lambda: a + b,
        lambda: a - b,
        lambda: a - (b - c),
        lambda: small * tirx.truncmod(b, 64),
        lambda: tirx.truncdiv(a, tirx.max(b, 1)),
        lambda: tirx.truncmod(a, tirx.max(b, 1)),
        lambda: tirx.floordiv(a, 7),
        lambda: tirx.floormod(a, 7),
        lambda: tirx.min(a, b),
        lambda: tirx.max(a, b),
        lambda: a & b,
        lambda: a | b,
        lambda: a ^ b,
        lambda: ~a,
        lambda: a >> 2,
        lambda: small << 2,
        lambda: tirx.Select(condition, a, b),
        lambda: tirx.Select(tirx.all(condition, other), c, b),
        lambda: tirx.if_then_else(tirx.any(condition, tirx.Not(other)), a, c),
        lambda: tirx.Cast("int32", condition),
        lambda: tirx.Cast("int32", tirx.Cast("int8", a) + tirx.Cast("int8", b)),
        lambda: tirx.Cast("int32", tirx.Cast("uint8", a & 255) >> tirx.const(3, "uint8")),
        lambda: tirx.Cast("int32", tirx.Cast("float32", small) / tirx.const(3.0, "float32")),
        lambda: tirx.Cast("int32", tirx.Cast("int64", a) * tirx.Cast("int64", small)),
    ]
    return draw.choice(ways)()


@pytest.mark.opencl
@pytest.mark.parametrize("seed", range(3))
def test_expressions_mean_what_they_do_on_a_cpu(seed: int, tmp_path: Path) -> None:
    count = 16

    def write(source: Any, result: Any) -> None:
        (x, task), (y, _) = source, result
        named = [builder.bind(x[task * 4 + i]) for i in range(4)]
        leaves = [*named, builder.bind(named[0] + named[1]), builder.bind(named[2] - task), task]
        for place in range(count):
            value = random_expression(random.Random(f"{seed} {place}"), leaves, 4)
            builder.buffer_store(y, tirx.truncmod(value, 1 << 20), [task * count + place])

    x = np.random.default_rng(seed).integers(-100, 100, NUMBERS * 4, np.int32)
    size, dtypes = NUMBERS * count, ("int32", "int32")
    got = {
        name: run(
            elementwise(load_target(name), (x.size, size), dtypes, write, NUMBERS),
            *(x, size, "int32", load_target(name), tmp_path / name),
        )
        for name in ("cpu", "opencl")
    }
    assert len(np.unique(got["cpu"])) > 50
    np.testing.assert_array_equal(got["opencl"], got["cpu"])


RUNS = {
    "aligned": (0, 1),
    "not aligned": (3, 1),
    "every third": (2, 3),
    "backwards": (7, -1),
}


@pytest.mark.opencl
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("loaded", RUNS)
def test_vectors_from_anywhere_to_anywhere(loaded: str, dtype: str, tmp_path: Path) -> None:
    size, (first, step) = 64 * len(RUNS), RUNS[loaded]

    def write(x: Any, y: Any) -> None:
        for base, (to, stride) in zip(range(0, size, 64), RUNS.values(), strict=True):
            for lanes, at in ((4, base), (8, base + 32)):
                read = x[tirx.Ramp(at + first, step, lanes)]
                value = tirx.Cast(f"float32x{lanes}", read) + broadcast(1.0, lanes)
                place = tirx.Ramp(at + to, stride, lanes)
                builder.buffer_store(y, tirx.Cast(f"{dtype}x{lanes}", value), [place])

    x = np.arange(size).astype(dtype)
    function = elementwise(GPU, (size, size), (dtype, dtype), write, 1)
    got = run(function, x, size, dtype, GPU, tmp_path / "bundle")
    for base, (to, stride) in zip(range(0, size, 64), RUNS.values(), strict=True):
        for lanes, at in ((4, base), (8, base + 32)):
            lane = np.arange(lanes)
            expected = x[at + first + step * lane] + 1
            np.testing.assert_array_equal(got[at + to + stride * lane], expected)
    source = source_of(function)
    assert ("LOAD(float4" in source) == (loaded == "aligned" and dtype == "float32")
    assert ("vloada_half4" in source) == (loaded == "aligned" and dtype == "float16")
    assert not re.search(r"half[48] ", source)  # no arithmetic in halves


@pytest.mark.opencl
def test_single_halves(tmp_path: Path) -> None:
    def write(source: Any, result: Any) -> None:
        (x, task), (y, _) = source, result
        builder.buffer_store(y, tirx.Cast("float16", tirx.Cast("float32", x[task]) / 3.0), [task])

    x = np.arange(64).astype(np.float16)
    function = elementwise(GPU, (64, 64), ("float16", "float16"), write, 64)
    got = run(function, x, 64, "float16", GPU, tmp_path / "bundle")
    np.testing.assert_array_equal(got, (x.astype(np.float32) / np.float32(3)).astype(np.float16))


def test_an_image_is_read_by_whole_pixels_or_not_at_all() -> None:
    def write(lanes: int) -> Write:
        def body(source: Any, result: Any) -> None:
            (x, task), (y, _) = source, result
            ramp = tirx.Ramp(task * 8, 1, lanes)
            builder.buffer_store(y, x[ramp], [ramp])

        return body

    adreno = load_target("adreno")
    sources = {
        lanes: source_of(elementwise(adreno, (64, 64), ("float32",) * 2, write(lanes), 8), adreno)
        for lanes in (4, 8)
    }
    assert "read_imagef(x, " in sources[4]
    assert "__read_only image1d_buffer_t x" in sources[4]
    assert "__global float* restrict x" in sources[8]


def test_what_has_a_name_is_not_computed_again() -> None:
    def write(source: Any, result: Any) -> None:
        (x, task), (y, _) = source, result
        far = builder.bind(task * 3 + 5)
        value = builder.bind(x[far])
        product = builder.bind(value * value)
        builder.buffer_store(y, product + value, [far])
        builder.buffer_store(y, product - value, [task])

    source = source_of(elementwise(GPU, (64, 64), ("float32",) * 2, write, 8))
    assert source.count("* 3 + 5") == 1
    # A product and the sum that it goes into are one operation, if they are one expression.
    (value,) = re.findall(r"float (\w+) = x\[", source)
    assert f"{value} * {value} + {value};" in source
    assert f"{value} * {value} - {value};" in source


def test_memory_that_changes_is_read_again(tmp_path: Path) -> None:
    def write(source: Any, result: Any) -> None:
        (x, task), (y, _) = source, result
        kept = private(GPU, (1,), "float32")
        builder.buffer_store(kept, x[task], [0])
        before = builder.bind(kept[0])
        builder.buffer_store(kept, before + 1.0, [0])
        builder.buffer_store(y, before + kept[0], [task])

    source = source_of(elementwise(GPU, (64, 64), ("float32",) * 2, write, 8))
    assert re.search(r"float (\w+) = kept;\n +kept = \1 \+ 1.0f;\n.* = \1 \+ kept;", source)


def test_what_there_is_no_word_for_is_refused_by_the_kernels_name() -> None:
    def write(lanes: int) -> Write:
        def body(source: Any, result: Any) -> None:
            (x, task), (y, _) = source, result
            ramp = tirx.Ramp(task * 8, 1, lanes)
            value = x[ramp]
            builder.buffer_store(y, tirx.call_intrin(value.ty, "tirx.fabs", value), [ramp])

        return body

    with pytest.raises(Unsupported, match=r"kernel k_kernel: .*no type for float32 x 5"):
        source_of(elementwise(GPU, (64, 64), ("float32",) * 2, write(5), 8))
