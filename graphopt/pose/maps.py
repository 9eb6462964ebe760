"""Which of a network's outputs are heat maps and part affinity fields (PAFs): `find_maps`.

What the channel counts, the shapes and the graph say without doubt is taken; what can be read in
two ways, or would leave another output with maps unused, is refused, and `--maps` settles it:

    heat=NAME                         one person a photo, by heat maps alone
    heat=NAME,paf=NAME                people, by heat maps and PAFs
    heat=NAME[0:19],paf=NAME[19:57]   some channels of an output, the last one not included
    heat=NAME:nhwc                    channels come last (nchw: first)

Outputs that it does not name are not needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.pose.skeleton import Skeleton, builtin_skeletons, load_skeleton

Layout = Literal["nchw", "nhwc"]
"""Where an output's channels are: before its rows and columns, or after them."""
AXES: Mapping[Layout, tuple[int, int, int]] = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}
"""The axes of channels, rows and columns."""


class MapSlice(BaseModel):
    """Some channels of one output: first to first + count - 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    """Of its four axes, at the input that was tried."""
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


class Graph:
    """Where the tensors of an ONNX graph come from.

    Args:
        proto: the ModelProto.
    """

    def __init__(self, proto: Any) -> None:
        self._makers = {name: node for node in proto.graph.node for name in node.output if name}
        self._weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}

    def layout(self, tensor: str) -> Layout | None:
        """How a tensor with maps lies in memory, where operators tell."""
        found: Layout | None = None
        moves: list[tuple[int, ...]] = []
        for node in self._back(tensor):
            if node.op_type == "Transpose":
                moves.append(tuple(next((a.ints for a in node.attribute if a.name == "perm"), ())))
            elif node.op_type in _CHANNELS_FIRST:
                found = "nchw"
        for move in reversed(moves):
            found = _TRANSPOSED.get((found, move))
        return found

    def joints(self, tensor: str) -> set[int]:
        """The channels at which a tensor that was joined from others has seams."""
        *_, last = (None, *self._back(tensor, through=(*_KEEPS, "Transpose", "Resize", "Upsample")))
        if last is None or last.op_type != "Concat":
            return set()
        seams, place = set(), 0
        for name in last.input:
            count = self._channels(name)
            if not count:
                break
            place += count
            seams.add(place)
        return seams

    def comes_from(self, tensor: str, other: str) -> bool:
        """Whether a tensor is computed from another."""
        pending, seen = [tensor], set()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            pending += self._makers[name].input if name in self._makers else ()
        return other in seen - {tensor}

    def is_join_of(self, tensor: str, parts: Iterable[str]) -> bool:
        """Whether a tensor holds nothing but others, joined."""
        maker = self._makers.get(tensor)
        return maker is not None and maker.op_type == "Concat" and set(parts) == set(maker.input)

    def _channels(self, tensor: str) -> int | None:
        """Filters of the convolution that a tensor comes from."""
        *_, last = (None, *self._back(tensor, through=(*_KEEPS, "BatchNormalization")))
        weight = self._weights.get(last.input[1]) if last is not None and last.input[1:] else None
        return weight[0] if weight and last.op_type == "Conv" else None

    def _back(self, tensor: str, through: Sequence[str] = ()) -> Iterator[Any]:
        """The nodes that a tensor comes from, the last one first, as far as they keep its shape."""
        allowed = through or (*_KEEPS, "Concat", "Resize", "Upsample", "Transpose")
        while tensor in self._makers:
            node = self._makers[tensor]
            yield node
            if node.op_type not in allowed:
                return
            tensor = next((i for i in node.input if i not in self._weights), "")


_KEEPS = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "HardSigmoid", "Tanh", "Clip"),
    *("Identity", "Cast", "Add", "Sub", "Mul", "Div"),
)
"""Operators that work value by value."""
_CHANNELS_FIRST = ("Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool")
"""Operators whose results have channels first."""
_TRANSPOSED: Mapping[tuple[Layout | None, tuple[int, ...]], Layout] = {
    ("nchw", (0, 2, 3, 1)): "nhwc",
    ("nhwc", (0, 3, 1, 2)): "nchw",
}


def maps_among(
    shapes: Mapping[str, tuple[int, ...]], size: tuple[int, int], graph: Graph
) -> list[Output]:
    """The outputs that hold maps: four axes, two of which are the input's rows and columns.

    Args:
        shapes: every output's, in the graph's order, for an input of one item.
        size: that input's rows and columns.
        graph: tells where shapes read both ways.
    """
    found = []
    for name, shape in shapes.items():
        if len(shape) != 4 or shape[0] != 1:
            continue
        possible = [layout for layout in AXES if _same_aspect(shape, layout, size)]
        told = graph.layout(name)
        if told is not None and min(shape[axis] for axis in AXES[told][1:]) > 1:
            found.append(Output(name, shape, told))
        elif possible:
            exact = [layout for layout in possible if _aspect_error(shape, layout, size) == 0]
            (*others, best) = exact or possible
            found.append(Output(name, shape, None if others else best))
    agreed = {output.layout for output in found} - {None}
    if len(agreed) == 1:
        found = [Output(o.name, o.shape, o.layout or next(iter(agreed))) for o in found]
    return found


def _aspect_error(shape: Sequence[int], layout: Layout, size: tuple[int, int]) -> float:
    """How far maps' aspect is from the input's."""
    _, rows, columns = AXES[layout]
    return abs(math.log(size[0] * shape[columns] / (size[1] * shape[rows])))


def _same_aspect(shape: Sequence[int], layout: Layout, size: tuple[int, int]) -> bool:
    """Whether maps have the input's aspect, up to a pixel that rounding costs."""
    _, rows, columns = AXES[layout]
    least = min(shape[rows], shape[columns])
    return least > 1 and _aspect_error(shape, layout, size) <= 1 / least


def find_maps(
    outputs: Sequence[Output], graph: Graph, chosen: Skeleton | None, said: str | None = None
) -> MapReading:
    """Heat maps and PAFs among the outputs; of several stages the last.

    Args:
        outputs: see `maps_among`.
        graph: what they come from.
        chosen: the skeleton, if the user says which.
        said: what the user says about maps, see the module.

    Raises:
        InputError: they fit no skeleton that is known, can be read in several ways, or some would
            stay unused that may be needed.
    """
    bodies = [chosen] if chosen else [load_skeleton(name) for name in builtin_skeletons()]
    if said is not None:
        reading = _as_said(outputs, parse_maps(said), bodies, chosen)
    else:
        reading = _only(
            [*_with_pafs(outputs, graph, bodies)] or [*_alone(outputs, bodies, chosen)], outputs
        )
        _nothing_left(reading, outputs, graph)
    sizes = {o.size for o in outputs if reading.uses(o)}
    if len(sizes) > 1:
        raise Unsupported(
            f"heat maps and PAFs differ in size: {reading}",
            hint="name outputs of one size with --maps heat=NAME,paf=NAME",
        )
    return reading


def _with_pafs(
    outputs: Sequence[Output], graph: Graph, bodies: Sequence[Skeleton]
) -> Iterator[MapReading]:
    """Every way to read heat maps and PAFs."""
    latest = {output.channels: output for output in outputs}
    for body in bodies:
        pafs = body.paf_channels
        for count in (len(body.parts) + 1, len(body.parts)) if pafs else ():
            heat, paf, both = (latest.get(n) for n in (count, pafs, count + pafs))
            if heat is not None and paf is not None:
                yield MapReading(body, heat.all(), paf.all())
                if both is not None and graph.is_join_of(both.name, (heat.name, paf.name)):
                    both = None
            if both is not None:
                yield _joined(body, both, count, graph)


def _joined(body: Skeleton, output: Output, count: int, graph: Graph) -> MapReading:
    pafs, seams = body.paf_channels, graph.joints(output.name)
    pafs_first = pafs in seams and count not in seams
    known = (count in seams) != (pafs in seams)
    return MapReading(
        body,
        output.all(pafs if pafs_first else 0, count),
        output.all(0 if pafs_first else count, pafs),
        {} if known else {"maps": f"one output of {output.channels} channels; PAFs may come first"},
    )


def _alone(
    outputs: Sequence[Output], bodies: Sequence[Skeleton], chosen: Skeleton | None
) -> Iterator[MapReading]:
    """Every way to read heat maps of one person: without a background, or else with one."""
    latest = {output.channels: output for output in outputs}
    for background in (0, 1):
        found = [
            (body, latest[count])
            for body in bodies
            if (count := len(body.parts) + background) in latest
        ]
        for body, output in found:
            yield MapReading(
                body, output.all(), None, _guesses(body, output.channels, bodies, chosen)
            )
        if found:
            return


def _guesses(
    body: Skeleton, count: int, bodies: Sequence[Skeleton], chosen: Skeleton | None
) -> dict[str, str]:
    """What is not known of a network with heat maps alone."""
    others = [b.name for b in bodies if b is not body and count - len(b.parts) in (0, 1)]
    but = f", which {' and '.join(others)} with a background would have too" if others else ""
    why = f"{count} heat maps and no PAFs are all there is{but}"
    guessed = {} if chosen else {"skeleton": why}
    return guessed if chosen and not chosen.paf_channels else guessed | {"decoder": why}


def _only(readings: Sequence[MapReading], outputs: Sequence[Output]) -> MapReading:
    """The one way to read the outputs."""
    if not readings:
        raise _fits_nothing(outputs)
    if len(readings) > 1:
        ways = "; ".join(str(reading) for reading in readings)
        raise InputError(
            f"the outputs can be read in {len(readings)} ways: {ways}",
            hint=f"say which with --maps {_as_flag(readings[0])}",
        )
    return readings[0]


def _nothing_left(reading: MapReading, outputs: Sequence[Output], graph: Graph) -> None:
    """Refuse a reading that leaves maps unused which may be needed."""
    used = [output for output in outputs if reading.uses(output)]

    def earlier(output: Output) -> bool:
        """Whether it is another stage's, or a coarser one's, of what is read."""
        return any(
            output.channels == other.channels
            and (
                reading.paf is not None
                or output.size < other.size
                or graph.comes_from(other.name, output.name)
            )
            for other in used
        )

    left = [
        output
        for output in outputs
        if output not in used
        and not earlier(output)
        and output.channels not in reading.skeleton.spare
        and not graph.is_join_of(output.name, [other.name for other in used])
    ]
    if left:
        names = ", ".join(map(str, left))
        raise InputError(
            f"{reading} would leave {names} unused, which may be needed to find people",
            hint=f"if it is not: --maps {_as_flag(reading)}",
        )


def _fits_nothing(outputs: Sequence[Output]) -> InputError:
    return InputError(
        "the outputs fit no skeleton that is known: "
        f"{', '.join(map(str, outputs)) or 'none holds maps'}",
        hint="say which one it is with --skeleton, a built-in name "
        f"({', '.join(builtin_skeletons())}) or a TOML file, and with --maps heat=NAME,paf=NAME "
        "which outputs are its maps",
    )


def _as_flag(reading: MapReading) -> str:
    """What --maps would say of a reading."""
    kinds = zip(("heat", "paf"), reading.slices, strict=False)
    return f"'{','.join(f'{kind}={maps}' for kind, maps in kinds)}'"


_KIND = re.compile(r",(?=(?:heat|paf)=)")
_SLICE = re.compile(r"(?P<name>.+?)(?:\[(?P<first>\d+):(?P<end>\d+)\])?(?::(?P<layout>nchw|nhwc))?")
MAPS_HINT = "such as --maps heat=NAME,paf=NAME or 'heat=NAME[0:19],paf=NAME[19:57]'"


def parse_maps(text: str) -> dict[str, str]:
    """What --maps says, as `heat` and, where there are PAFs, `paf`: an output's name and the rest.

    Raises:
        UsageError: it is not written like that.
    """
    found: dict[str, str] = {}
    for entry in _KIND.split(text):
        kind, _, value = entry.partition("=")
        if kind not in ("heat", "paf") or not value or kind in found:
            raise UsageError(f"--maps {text}: not heat=NAME or heat=NAME,paf=NAME", hint=MAPS_HINT)
        found[kind] = value
    if "heat" not in found:
        raise UsageError(f"--maps {text}: without heat maps nobody is found", hint=MAPS_HINT)
    return found


def _as_said(
    outputs: Sequence[Output],
    said: Mapping[str, str],
    bodies: Sequence[Skeleton],
    chosen: Skeleton | None,
) -> MapReading:
    slices = {kind: _slice(kind, text, outputs) for kind, text in said.items()}
    heat, paf = slices["heat"], slices.get("paf")
    if paf is not None and heat.output == paf.output and _overlap(heat, paf):
        raise UsageError(f"--maps: {heat} and {paf} have channels in common", hint=MAPS_HINT)
    if chosen is not None:
        return MapReading(chosen, heat, paf, {})
    pafs = 0 if paf is None else paf.count
    for background in (0, 1):
        for body in bodies:
            if len(body.parts) + background == heat.count and pafs in (0, body.paf_channels):
                known = _guesses(body, heat.count, bodies, chosen) if paf is None else {}
                return MapReading(
                    body, heat, paf, {k: v for k, v in known.items() if k == "skeleton"}
                )
    raise InputError(
        f"{heat.count} heat maps and {pafs} PAF channels fit no skeleton that is known",
        hint="say which one it is with --skeleton, a built-in name "
        f"({', '.join(builtin_skeletons())}) or a TOML file",
    )


def _overlap(a: MapSlice, b: MapSlice) -> bool:
    return a.first < b.first + b.count and b.first < a.first + a.count


def _slice(kind: str, text: str, outputs: Sequence[Output]) -> MapSlice:
    """One entry of --maps; a name that is an output's is that output, however it looks."""
    by_name = {output.name: output for output in outputs}
    match = _SLICE.fullmatch(text)
    if text in by_name or match is None:
        name, first, end, layout = text, None, None, None
    else:
        name, first, end, layout = match.group("name", "first", "end", "layout")
    output = by_name.get(name)
    if output is None:
        there = ", ".join(map(str, outputs)) or "none"
        raise UsageError(f"--maps {kind}={name}: no output with maps", hint=f"there are: {there}")
    if layout is not None:
        output = Output(name, output.shape, "nhwc" if layout == "nhwc" else "nchw")
    start, stop = int(first or 0), int(end) if end else output.channels
    if not start < stop <= output.channels:
        raise UsageError(f"--maps {kind}={text}: {output} has no such channels", hint=MAPS_HINT)
    return output.all(start, stop - start)
