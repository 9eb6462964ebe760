"""OpenCL C for what kernels read and write: numbers and vectors, of any precision, and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from tvm import sym, tirx

from graphopt.codegen.linking.opencl_words import FLOAT, VALUE, Code, DataType, Level
from graphopt.errors import Unsupported

Space = Literal["global", "local", "private", "variable", "image"]
"""Where memory is: in OpenCL's terms, but for two."""

Render = Callable[[Any], Code]
"""What makes text of an index."""

MACROS = """
#ifdef cl_khr_fp16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#endif
#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
#define LOAD(type, p) (*(__global const type*)(p))
#define STORE(type, p, value) (*(__global type*)(p) = (value))
"""
"""Vectors that are aligned, as ours are. vload4 and vstore4 do not promise that to the compiler,
and PoCL calls them as functions, with all registers spilled."""


HALF = DataType("float16")


class NoImageError(Exception):
    """Something else than whole pixels is read of memory that was to be an image."""


@dataclass(frozen=True)
class Memory:
    """What a kernel reads or writes.

    Args:
        name: of the pointer, the array, the variable or the image.
        type: of an element.
        space: where it is; a `variable` is private memory of one element, an `image` has a vector
            of four elements as a pixel.
    """

    name: str
    type: DataType
    space: Space

    def seen_as(self, kind: DataType) -> Memory:
        """The same memory with elements of another type."""
        if kind == self.type:
            return self
        if self.space == "image":
            raise NoImageError
        if self.space == "variable":
            raise Unsupported(f"{self.name} holds {self.type.name}, and is used as {kind.name}")
        space = "" if self.space == "private" else f"__{self.space} "
        return replace(self, name=f"(({space}{kind.name}*){self.name})", type=kind)

    def element(self, at: Code, kind: DataType) -> str:
        """One element, to be read or written; halves may be read as floats."""
        if self.space == "image":
            raise NoImageError
        if self.converts(kind):
            numbers, lanes = self.seen_as(HALF).name, self.type.lanes
            function = f"vloada_half{lanes}" if lanes > 1 else "vload_half"
            return f"{function}({at.text}, {numbers})"
        return self.name if self.space == "variable" else f"{self.name}[{at.text}]"

    def converts(self, kind: DataType) -> bool:
        """Whether such numbers are other ones in this memory.

        Every device loads and stores halves as floats, whether it computes in half precision or
        not.
        """
        stored = self.space not in ("private", "variable")
        return stored and self.type.is_half and kind.scalar == FLOAT.scalar

    def address(self, start: Code) -> str:
        """Where an element is."""
        return f"{self.name} + {start.at(Level.SUM)}"


def load(memory: Memory, kind: DataType, index: Any, render: Render) -> Code:
    """What memory holds.

    Args:
        memory: where.
        kind: what it is to be: as many lanes as an element, or as the index; float, if elements are
            halves that are to be converted.
        index: in TIR.
        render: makes text of it.

    Raises:
        NoImageError: the memory is an image, and these are not whole pixels of it.
    """
    if kind.lanes == memory.type.lanes:
        return Code(memory.element(render(index), kind), Level.ATOM, kind)
    if not is_aligned(index, kind.lanes):
        scalar = kind.of_lanes(1)
        parts = ", ".join(memory.element(at, scalar) for at in _places(index, render))
        return Code(f"({kind.name})({parts})", Level.UNARY, kind)
    start = render(index.base)
    if memory.space == "image":
        text = _pixel(memory, kind, start)
    elif memory.converts(kind):
        # Three are aligned as four are.
        function = "vload" if kind.lanes == 3 else "vloada"
        text = f"{function}_half{kind.lanes}(0, {memory.address(start)})"
    elif memory.space == "global" and kind.lanes == 4:
        text = f"LOAD({kind.name}, {memory.address(start)})"
    else:
        text = f"vload{kind.lanes}(0, {memory.address(start)})"
    return Code(text, Level.ATOM, kind)


def _pixel(memory: Memory, kind: DataType, start: Code) -> str:
    if kind.lanes != 4 or memory.type not in (HALF, FLOAT):
        raise NoImageError
    function = "read_imageh" if kind.is_half else "read_imagef"
    return f"{function}({memory.name}, {start.at(Level.ATOM)} >> 2)"


def store(memory: Memory, value: Code, index: Any, render: Render) -> list[str]:
    """The statements that write a value.

    Args:
        memory: where.
        value: of as many lanes as an element, or as the index; a float, if it is to be converted to
            a half, the nearest.
        index: in TIR.
        render: makes text of it.

    Raises:
        NoImageError: the memory is an image.
    """
    if memory.space == "image":
        raise NoImageError
    lanes = value.type.lanes
    if lanes == memory.type.lanes:
        return [_assignment(memory, value, render(index))]
    if not _is_run(index):
        # The value is computed once.
        scalar = value.type.of_lanes(1)
        parts = (Code(f"{VALUE}.s{lane:x}", Level.ATOM, scalar) for lane in range(lanes))
        stores = map(_assignment, [memory] * lanes, parts, _places(index, render))
        return ["{", f"{value.type.name} {VALUE} = {value.text};", *stores, "}"]
    address = memory.address(render(index.base))
    if memory.converts(value.type):
        function = "vstorea" if lanes != 3 and is_aligned(index, lanes) else "vstore"
        return [f"{function}_half{lanes}_rte({value.text}, 0, {address});"]
    if memory.space == "global" and lanes == 4 and is_aligned(index, lanes):
        return [f"STORE({value.type.name}, {address}, {value.text});"]
    return [f"vstore{lanes}({value.text}, 0, {address});"]


def _assignment(memory: Memory, value: Code, at: Code) -> str:
    if memory.converts(value.type):
        numbers, lanes = memory.seen_as(HALF).name, value.type.lanes
        function = f"vstorea_half{lanes}_rte" if lanes > 1 else "vstore_half_rte"
        return f"{function}({value.text}, {at.text}, {numbers});"
    return f"{memory.element(at, value.type)} = {value.text};"


def _is_run(index: Any) -> bool:
    return isinstance(index, tirx.Ramp) and int(index.stride) == 1


def is_aligned(index: Any, lanes: int) -> bool:
    """Whether an index is a run of numbers that begins at a multiple of so many."""
    if not _is_run(index):
        return False
    place = sym.Analyzer().modular_set(index.base)
    return int(place.coeff) % lanes == 0 and int(place.base) % lanes == 0


def _places(index: Any, render: Render) -> list[Code]:
    """Each lane's index."""
    if isinstance(index, tirx.Ramp):
        return [render(index.base + index.stride * lane) for lane in range(int(index.lanes))]
    vector = render(index)
    lanes = range(vector.type.lanes)
    text = vector.at(Level.ATOM)
    return [Code(f"{text}.s{lane:x}", Level.ATOM, vector.type.of_lanes(1)) for lane in lanes]
