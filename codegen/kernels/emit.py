"""The words that kernel templates are written in: vectors, accumulators, and the walk over a grid.

A template is a Python function that builds a TIR `PrimFunc` with TVM's IR builder. What Python
unrolls (the pixels and filters of a register tile) becomes straight-line code that stays in
registers; what must stay a loop is a `T.serial`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from graphopt.codegen.targets import Target

Expr = Any
"""A TIR expression or buffer: TVM's Python classes carry no types that mypy could check."""

LARGEST_HALF = 65504.0
"""The largest float16."""


@contextmanager
def kernel(name: str) -> Iterator[Callable[[], Any]]:
    """Open a PrimFunc; after the block, the function that it yields returns it.

    `op_pattern` 8 (opaque) keeps TVM from fusing it with its own kernels, `is_scheduled` keeps it
    from being scheduled again.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})
        yield builder.get


def argument(name: str, shape: Sequence[int], dtype: str = "float32") -> Expr:
    """Declare the kernel's next parameter: a contiguous tensor of `shape`."""
    return T.arg(name, T.buffer(tuple(shape), dtype, layout=None))


def view(
    buffer: Expr, shape: Sequence[int], start: int = 0, strides: Sequence[int] | None = None
) -> Expr:
    """The same memory under another shape, from an element on; strides count elements."""
    return T.decl_buffer(
        tuple(shape),
        buffer.dtype,
        data=buffer.data,
        strides=strides and list(strides),
        elem_offset=start,
        layout=None,
    )


def scratch(shape: Sequence[int], dtype: str = "float32") -> Expr:
    """A working buffer.

    In a loop on a CPU it comes from the thread's pool, which the first run fills; before a GPU's
    grids it is an arena of the plan.
    """
    return T.alloc_buffer(tuple(shape), dtype, scope="global", layout=None)


def private(target: Target, shape: Sequence[int], dtype: str = "float32") -> Expr:
    """A working buffer of one task's own: less than 1 KB, or a CPU has it on the heap."""
    scope = "global" if target.kind == "cpu" else "local"
    return T.alloc_buffer(tuple(shape), dtype, scope=scope, layout=None)


class Scalars:
    """A buffer read element by element, as numbers of a type, whatever they are stored as."""

    def __init__(self, buffer: Expr, dtype: str = "float32") -> None:
        self._buffer, self._dtype = buffer, dtype

    def __getitem__(self, index: tuple[Expr, ...]) -> Expr:
        return _converted(self._buffer[index], self._buffer.dtype, self._dtype)


class Vectors:
    """A buffer read and written whole vectors at a time: its innermost dimension is the vector.

    Vectors that are read are of a type, vectors to write are float32; where the buffer is of
    another type, they are converted on the way.
    """

    def __init__(self, buffer: Expr, dtype: str = "float32") -> None:
        self._buffer, self._dtype = buffer, dtype
        self._count = int(buffer.shape[-1])
        self._lanes = tirx.Ramp(0, 1, self._count)

    def __getitem__(self, index: tuple[Expr, ...]) -> Expr:
        place = (*index, self._lanes)
        lanes = f"x{self._count}"
        return _converted(self._buffer[place], self._buffer.dtype + lanes, self._dtype + lanes)

    def __setitem__(self, index: tuple[Expr, ...], value: Expr) -> None:
        if self._buffer.dtype == "float16":
            value = tirx.Cast(
                f"float16x{self._count}", in_half(value, lambda x: broadcast(x, self._count))
            )
        T.buffer_store(self._buffer, value, [*index, self._lanes])


def _converted(value: Expr, dtype: str, to: str) -> Expr:
    return value if dtype == to else tirx.Cast(to, value)


def in_half(value: Expr, constant: Callable[[float], Expr]) -> Expr:
    """The nearest float32 that float16 has a number for: infinity times a weight of 0 is no number.

    Args:
        value: a scalar or a vector.
        constant: a number as one of these.
    """
    return T.max(T.min(value, constant(LARGEST_HALF)), constant(-LARGEST_HALF))


def constant(value: float, dtype: str = "float32") -> Expr:
    """A Python number as a scalar of a type."""
    return tirx.FloatImm(dtype, value)


def broadcast(value: Expr, lanes: int) -> Expr:
    """A scalar in every lane; a Python number becomes a float32."""
    scalar = constant(value) if isinstance(value, (int, float)) else value
    return tirx.Broadcast(scalar, lanes)


def zeros(target: Target) -> Expr:
    """A vector of zeros, as convolutions add them up."""
    return broadcast(constant(0.0, target.arithmetic), target.lanes)


class Variable:
    """One value that changes, which the compiler keeps in a register.

    It is a buffer of its own: TVM puts small ones of scope `global` on the stack, where LLVM finds
    them and promotes them; larger ones would go to the heap. OpenCL calls the same thing private.
    """

    def __init__(self, target: Target, dtype: str, start: Expr | None = None) -> None:
        self._buffer = private(target, (1,), dtype)
        if start is not None:
            self.value = start

    @property
    def value(self) -> Expr:
        """The value as it is now."""
        return self._buffer[0]

    @value.setter
    def value(self, new: Expr) -> None:
        T.buffer_store(self._buffer, new, [0])


class Accumulator(Variable):
    """A vector of what convolutions add up."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, f"{target.arithmetic}x{target.lanes}")


def wrapped(operation: Callable[[Expr, Expr], Expr], a: Expr, b: Expr) -> Expr:
    """Two vectors of int32 added (subtracted, multiplied) modulo 2^32.

    As TVM writes it, what LLVM may do where 32-bit sums overflow is undefined; of 64 bits whose
    upper half is dropped it makes the same instruction.
    """
    lanes = a.ty.dtype.lanes
    wide = operation(*(tirx.Cast(f"int64x{lanes}", value) for value in (a, b)))
    return tirx.Cast(f"int32x{lanes}", wide)


NEIGHBOURS = 16
"""Tiles of pixels that a GPU computes for all filters before it goes on to others: so their input
stays in a cache."""


def tile_chunks(tiles: int) -> tuple[int, int]:
    """Tiles cut into chunks of about equal size: how many chunks, and tiles in each."""
    chunks = -(-tiles // NEIGHBOURS)
    return chunks, -(-tiles // chunks)


@contextmanager
def grid(target: Target, *extents: int) -> Iterator[list[Expr]]:
    """Walk all index tuples of a box in parallel, the last index fastest.

    On a CPU, each thread takes a contiguous run of tuples. On a GPU, each work-item takes one, and
    groups of `target.work_group` follow the last index, so that neighbours read neighbouring
    memory.
    """
    total = math.prod(extents)

    def unravel(flat: Expr) -> list[Expr]:
        index: list[Expr] = []
        for extent in reversed(extents):
            index.insert(0, T.bind(tirx.floormod(flat, extent)))
            flat = tirx.floordiv(flat, extent)
        return index

    if target.kind == "cpu":
        with T.parallel(0, total) as flat:
            yield unravel(flat)
        return
    group = min(target.work_group, total)
    groups = T.thread_binding(0, -(-total // group), "blockIdx.x")
    with groups as block, T.thread_binding(0, group, "threadIdx.x") as thread:
        flat = block * group + thread
        if total % group == 0:
            yield unravel(flat)
        else:
            with T.If(flat < total), T.Then():
                yield unravel(flat)
