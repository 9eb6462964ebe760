"""Which channels of which outputs are maps: values that say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graphopt.errors import InputError
from graphopt.ir.records import Record
from graphopt.pose.skeleton import Skeleton

Layout = Literal["nchw", "nhwc"]
"""Where an output's channels are: before its rows and columns, or after them."""


AXES: Mapping[Layout, tuple[int, int, int]] = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}
"""The axes of channels, rows and columns."""


@dataclass(frozen=True, kw_only=True)
class MapSlice(Record):
    """Some channels of one output: first to first + count - 1."""

    output: str
    first: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(gt=0)]
    layout: Layout = "nchw"

    def of(self, outputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """These channels of the first batch item, as float32 [count, h, w].

        Raises:
            InputError: there is no such output, or it has fewer channels.
        """
        shape = outputs[self.output].shape if self.output in outputs else ()
        if len(shape) != 4 or shape[AXES[self.layout][0]] < self.first + self.count:
            raise InputError(
                f"the pose spec reads channels {self.first} to {self.first + self.count - 1} of "
                f"output {self.output!r}, and the network has no such maps",
                hint=f"outputs: {', '.join(f'{n} {list(v.shape)}' for n, v in outputs.items())}",
            )
        maps = outputs[self.output][0]
        if self.layout == "nhwc":
            maps = maps.transpose(2, 0, 1)
        maps = maps[self.first : self.first + self.count]
        return np.ascontiguousarray(maps, np.float32)

    def __str__(self) -> str:
        layout = f":{self.layout}" if self.layout != "nchw" else ""
        return f"{self.output}[{self.first}:{self.first + self.count}]{layout}"


@dataclass(frozen=True)
class Output:
    """An output that holds maps."""

    name: str
    shape: tuple[int, ...]
    """Its four extents, at the input that was tried."""
    layout: Layout | None
    """None: its shape reads both ways."""

    @property
    def channels(self) -> int:
        """How many maps there are."""
        return self.shape[AXES[self.layout or "nchw"][0]]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a map."""
        _, rows, columns = AXES[self.layout or "nchw"]
        return self.shape[rows], self.shape[columns]

    def __str__(self) -> str:
        return f"{self.name} ({self.channels} channels)"

    def all(self, first: int = 0, count: int | None = None) -> MapSlice:
        """These channels of it; all without a count.

        Raises:
            InputError: it is not known where the channels are.
        """
        if self.layout is None:
            raise InputError(
                f"the shape {list(self.shape)} of {self.name} reads both ways: channels may come "
                "first or last",
                hint=f"say which with --maps heat={self.name}:nchw or :nhwc",
            )
        count = self.channels if count is None else count
        return MapSlice(output=self.name, first=first, count=count, layout=self.layout)


@dataclass(frozen=True)
class MapReading:
    """How a network's outputs can be read."""

    skeleton: Skeleton
    heat: MapSlice
    paf: MapSlice | None = None
    guessed: dict[str, str] = field(default_factory=dict)
    """What of `skeleton`, `maps` and `decoder` is a guess, and why."""

    def uses(self, output: Output) -> bool:
        """Whether anything is read from an output."""
        return any(maps is not None and maps.output == output.name for maps in self.slices)

    @property
    def slices(self) -> tuple[MapSlice, ...]:
        """Heat maps, and PAFs where there are any."""
        return (self.heat,) if self.paf is None else (self.heat, self.paf)

    def __str__(self) -> str:
        named = ", ".join(f"{w} {m}" for w, m in zip(("heat", "paf"), self.slices, strict=False))
        return f"{self.skeleton.name} from {named}"
