"""OpenCL C's words: types, numbers, names that are free, and how tightly operators bind."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from graphopt.errors import Unsupported

SCALARS = {
    "bool": "bool",
    "float16": "half",
    "float32": "float",
    "float64": "double",
    "int8": "char",
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "uint8": "uchar",
    "uint16": "ushort",
    "uint32": "uint",
    "uint64": "ulong",
}
"""TVM's names of types, and OpenCL's."""

LANES = (1, 2, 3, 4, 8, 16)
"""How many numbers a vector may have."""

SUFFIXES = {"int32": "", "int64": "L", "uint32": "u", "uint64": "UL", "float32": "f", "float64": ""}
"""What makes a literal one of a type; others are cast."""


@dataclass(frozen=True)
class DataType:
    """A type of numbers.

    Args:
        scalar: TVM's name for one of them.
        lanes: how many there are.
    """

    scalar: str
    lanes: int = 1

    @cached_property
    def bits(self) -> int:
        """The size of one number."""
        return int(re.sub(r"\D", "", self.scalar) or 8)

    @property
    def is_float(self) -> bool:
        """Whether they have fractions."""
        return self.scalar.startswith("float")

    @property
    def is_half(self) -> bool:
        """Whether they are of half precision, in which not every device computes."""
        return self.scalar == "float16"

    @cached_property
    def name(self) -> str:
        """OpenCL's name for it.

        Raises:
            Unsupported: it has none.
        """
        if self.scalar not in SCALARS or self.lanes not in LANES:
            raise Unsupported(f"OpenCL C has no type for {self.scalar} x {self.lanes}")
        if self.lanes == 1:
            return SCALARS[self.scalar]
        # What comparisons of vectors make.
        return f"{'int' if self.scalar == 'bool' else SCALARS[self.scalar]}{self.lanes}"

    def of_lanes(self, lanes: int) -> DataType:
        """The type of more such numbers, or fewer."""
        return DataType(self.scalar, lanes)


INT = DataType("int32")
FLOAT = DataType("float32")
BOOL = DataType("bool")


@cache
def _parsed(text: str) -> DataType:
    scalar, _, lanes = text.partition("x")
    return DataType(scalar, int(lanes or 1))


def data_type(primitive: Any) -> DataType:
    """The type that TVM calls by this object."""
    return _parsed(str(primitive.dtype))


class Level(IntEnum):
    """How tightly an expression's outermost operator binds."""

    OR = 0
    AND = 1
    COMPARISON = 2
    SUM = 3
    PRODUCT = 4
    UNARY = 5
    ATOM = 6


class Code(NamedTuple):
    """An expression in OpenCL C."""

    text: str
    level: Level
    type: DataType

    def at(self, level: Level) -> str:
        """The text, in brackets if it binds less tightly than that."""
        return self.text if self.level >= level else f"({self.text})"


def number(value: float, kind: DataType) -> Code:
    """A constant: the shortest text that is read as the same number again."""
    if kind.scalar == "bool":
        return Code(str(int(value)), Level.ATOM, kind)
    if kind.is_float and not math.isfinite(value):
        name = "NAN" if math.isnan(value) else "INFINITY"
        digits, literal = f"-{name}" if value < 0 else name, kind == FLOAT
    elif kind.is_float:
        digits = repr(float(value)) if kind.bits == 64 else str(np.float32(value))
        literal = kind.scalar in SUFFIXES
        # A half is a literal of float first.
        digits += SUFFIXES.get(kind.scalar, "f")
    else:
        literal, suffix = kind.scalar in SUFFIXES, SUFFIXES.get(kind.scalar, "")
        digits = f"{value}{suffix}"
        if value == -(2 ** (kind.bits - 1)):
            # There are no negative literals, and this one's opposite is no number of the type.
            digits = f"({int(value) + 1}{suffix} - 1)"
    if not literal:
        return Code(f"({kind.name}){digits}", Level.UNARY, kind)
    return Code(digits, Level.UNARY if digits.startswith("-") else Level.ATOM, kind)


KEYWORDS = """
auto bool break case char const constant continue complex default do double else enum event_t extern
false float for generic global goto half if image1d_buffer_t image1d_t image2d_t image3d_t imaginary
inline int kernel local long pipe private quad read_only read_write register restrict return
sampler_t short signed size_t sizeof static struct switch true typedef uchar uint ulong union
uniform unsigned ushort void volatile while write_only
"""

FUNCTIONS = """
abs barrier ceil clamp cos cosh erf exp exp2 fabs floor fma fmax fmin fmod isnan log log2 max min
pow rint round rsqrt select sin sinh sqrt tan tanh trunc INFINITY NAN LOAD STORE
BYTES DOT4 STARTING_SUMS
"""
"""What kernels call; of those that convert, no variable is called like one."""

VALUE = "value"
"""A vector whose parts go to places of their own."""

RESERVED = frozenset([*KEYWORDS.split(), *FUNCTIONS.split(), VALUE])
"""What a variable cannot be called."""


class Names:
    """Names of a kernel's variables, each given once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, wish: str) -> str:
        """The wish, or what comes nearest to it."""
        wanted = re.sub(r"\W", "_", wish)
        wanted = f"v{wanted}" if wanted[0] in "_0123456789" else wanted
        name, number = wanted, 0
        while name in self._taken or name in RESERVED:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name
