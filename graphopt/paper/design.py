"""The plain function behind `graphopt design`: how deep, for the same number of multiply-adds?

A deeper backbone of narrower blocks costs as much, and may find people better (Shen et al., IJCAI
2021, section 2.1, "Model Depth Determination"). For each depth the width that costs nearest to what
is asked for is searched, and the time on a device predicted. Which depth finds people best, only
training tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial

from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.analysis.cost import cost_of
from graphopt.analysis.latency.device import Device
from graphopt.analysis.latency.predict import predict, total_ms
from graphopt.display.numbers import human
from graphopt.display.tables import Grid, Kind
from graphopt.errors import InputError, UsageError
from graphopt.ir.network import Network
from graphopt.ir.records import Record
from graphopt.paper.published import ACCURACY, TABLE_1
from graphopt.zoo.blocks import Outputs
from graphopt.zoo.catalogue import assemble, entry_of, trained
from graphopt.zoo.resnet import resnet50

TOLERANCE = 0.01
"""How far multiply-adds may be from what is asked for."""
WIDEST = 1024
"""Channels inside a block."""
BACKBONES: Mapping[str, tuple[Callable[..., Outputs], str]] = {
    "resnet50": (resnet50, "resnet50-72"),
}
"""What can be made deeper: its builder, and the network of the catalogue that has the rest."""


@dataclass(frozen=True, kw_only=True)
class DesignChoice(Record):
    """A depth and its width."""

    depth: int
    width: int = 1
    refinements: int


@dataclass(frozen=True, kw_only=True)
class Row(DesignChoice):
    """What that costs."""

    params: int
    macs: int
    ms: float
    """Predicted."""


@dataclass(frozen=True)
class Design(Record):
    """Networks of as many multiply-adds and several depths."""

    backbone: str
    gmacs: float
    """Asked for, at the input size `shape`."""
    shape: tuple[int, ...]
    device: str
    rows: tuple[Row, ...]

    def __rich__(self) -> RenderableType:
        """The networks, and beside them what the paper says of those of such a depth."""
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        size = "x".join(map(str, self.shape))
        columns = ("depth", "width", "stages", "params", "MACs", "ms")
        numbers = (*columns, "paper: MACs", "AP", "mAP")
        title = f"{self.backbone}, {self.gmacs:g} GMACs at {size}"
        table = Grid(dict.fromkeys(numbers, Kind.NUMBER), title=title)
        for row in self.rows:
            known = TABLE_1.get(row.depth)
            cells = (f"{known.gflops} G", f"{known.ap}", f"{known.second}") if known else ()
            table.add(
                *(str(row.depth), str(row.width), str(row.refinements)),
                *(human(row.params), f"{row.macs / 1e9:.2f} G", f"{row.ms:.1f}"),
                *(cells or ("", "", "")),
            )
        yield table
        yield Text(
            "Depth: convolutions of the backbone. Width: channels inside the blocks of its second "
            "group. Times are predicted. " + ACCURACY,
            style="dim",
        )


def design(
    backbone: str,
    depths: Sequence[int],
    gmacs: float,
    device: Device,
    *,
    refinements: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> Design:
    """Find the width that costs `gmacs` at each depth.

    Args:
        backbone: see `BACKBONES`.
        depths: convolutions of the backbone, see `resnet50`.
        gmacs: 10^9 multiply-adds.
        device: what times are predicted for.
        refinements: stages after the initial one.
        progress: told which depth is searched.

    Raises:
        InputError: no such backbone or depth, or no width that costs as much.
    """
    if backbone not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise UsageError(f"no backbone {backbone!r} can be made deeper", hint=f"there is: {known}")
    rows = []
    for depth in depths:
        progress(f"depth {depth}")
        chosen, graph = _search(backbone, DesignChoice(depth=depth, refinements=refinements), gmacs)
        cost = cost_of(graph)
        ms = total_ms(predict(graph, device))
        rows.append(Row(**vars(chosen), params=trained(cost), macs=cost.macs, ms=ms))
    return Design(
        backbone=backbone,
        gmacs=gmacs,
        shape=tuple(graph.inputs[0].shape),
        device=device.name,
        rows=tuple(rows),
    )


def make(backbone: str, choice: DesignChoice, seed: int | None = 0) -> Network:
    """A network of that depth and width; `seed` is of its weights, see `Net`."""
    builder, like = BACKBONES[backbone]
    entry = entry_of(like)
    given = {one.name: getattr(choice, one.name) for one in fields(DesignChoice)}
    return assemble(partial(builder, **given), entry.source, (1, 3, entry.size, entry.size), seed)


def _search(backbone: str, start: DesignChoice, gmacs: float) -> tuple[DesignChoice, Network]:
    """The width whose multiply-adds, which grow with it, are nearest to those asked for."""

    @cache
    def made(width: int) -> tuple[DesignChoice, Network, float]:
        choice = replace(start, width=width)
        graph = make(backbone, choice, seed=None)
        return choice, graph, cost_of(graph).macs / 1e9

    low, high = 1, 2
    while made(high)[-1] < gmacs and high < WIDEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if made(middle)[-1] < gmacs else (low, middle)
    best = min((low, high), key=lambda width: abs(made(width)[-1] - gmacs))
    choice, graph, found = made(best)
    if abs(found / gmacs - 1) > TOLERANCE:
        raise InputError(
            f"no width of {start.depth} layers costs {gmacs:g} GMACs within {TOLERANCE:.0%}: "
            f"{best} channels cost {found:.2f}",
            hint="ask for another depth, for --refinements 0, or for more or fewer GMACs",
        )
    return choice, graph
