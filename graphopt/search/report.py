"""What a search found: as JSON, as a table for people, and as a drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text
from scipy.stats import spearmanr

from graphopt.display.plots import COLORS, Axis, Plot
from graphopt.display.tables import Grid, Kind
from graphopt.ir.records import Record
from graphopt.search.frontier import Point, Rejected, frontier, plain_quality
from graphopt.search.options import LOCAL

LEAST_RANKED = 3
"""Candidates whose order says anything."""


@dataclass(frozen=True)
class Picked(Record):
    """The network that fulfils a wish best, and where it was written."""

    wish: str
    point: Point
    network: str
    bundle: str | None
    commands: tuple[str, ...]
    """What makes both again."""
    instead: float | None
    """What a plain smaller photo would keep at its speed, in the same precision."""
    levers: dict[str, str]
    """Those that were pulled, and how far."""
    smaller: float | None
    """What the original would keep at its speed by a smaller photo alone, in its own precision."""


@dataclass(frozen=True)
class SearchReport(Record):
    """The frontier, and what is not on it."""

    network: str
    device: str
    threads: int | None
    """CPU threads; None: every core."""
    photos: int
    """That candidates were judged on."""
    fitted: int
    """Others, that they were fitted to, at most."""
    reference: Point
    """The original, exactly rewritten, in the precision that `compile` takes unasked."""
    frontier: tuple[Point, ...]
    """What none beats, the slowest first."""
    plain: tuple[Point, ...]
    """The original with smaller photos, in every precision."""
    rejected: tuple[Rejected, ...]
    picked: Picked | None = None

    def instead_of(self, point: Point) -> float | None:
        """What a plain smaller photo keeps at a point's speed, in its precision."""
        same = [one for one in self.plain if one.precision == point.precision]
        return plain_quality(point.ms, same)

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's, of self-AP with AP over all that were judged.

        None without annotations, and for fewer than three candidates.
        """
        known: list[Point | Rejected] = [self.reference, *self.plain, *self.frontier]
        judged = {
            (one.height, one.precision, one.pipeline): (one.self_ap, one.ap)
            for one in [*known, *self.rejected]
            if one.ap is not None and one.self_ap is not None
        }
        if len(judged) < LEAST_RANKED:
            return None
        return float(spearmanr([*judged.values()]).statistic)

    def smaller(self, point: Point) -> float | None:
        """What the original keeps at a point's speed by a smaller photo alone."""
        same = [one for one in self.plain if one.precision == self.reference.precision]
        return plain_quality(point.ms, same)

    def parts(self, *, verbose: bool = False) -> Iterator[RenderableType]:
        """What is printed, part after part."""
        yield self._table()
        labelled = self.reference.ap is not None
        measure = "AP" if labelled else "self-AP, against the original's own poses,"
        where = "from pixels to people, here" if self.device == LOCAL else f"on {self.device}"
        kind = "measured in turns" if self.device == LOCAL else "of the network, predicted"
        yield Text(
            f"{measure} on {self.photos} photos that nothing was fitted to; ms {where}, {kind}. "
            f"Times: against the original as compile makes it, in {self.reference.precision}, "
            f"{self.reference.ms:.1f} ms. Smaller photo: what the original keeps that fast in the "
            "same precision.",
            style="dim",
        )
        if self.rank_correlation is not None:
            yield Text(
                "Self-AP, which needs no annotations, ranks the candidates as AP does: "
                f"Spearman's correlation {self.rank_correlation:.2f} (1: the same order).",
                style="dim",
            )
        whys = Counter(_brief(one.why) for one in self.rejected)
        for why, count in whys.most_common():
            yield Text(f"{count} left out: {why}")
        if verbose:
            for one in self.rejected:
                yield Text(f"{one.height} {one.precision} {one.pipeline}: {one.why}", style="dim")
        if self.picked:
            yield from self._picked(self.picked)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """All of it."""
        yield from self.parts()

    def _table(self) -> Grid:
        labelled = self.reference.ap is not None
        numbers = ["ms", "times", *(["AP"] if labelled else []), "self-AP", "smaller photo"]
        table = Grid(
            {"height": Kind.NUMBER, "precision": Kind.KEY, "pipeline": Kind.WORDS}
            | dict.fromkeys(numbers, Kind.NUMBER)
        )
        for point in self.frontier:
            instead = None if point.plain else self.instead_of(point)
            table.add(
                str(point.height),
                point.precision,
                point.pipeline,
                f"{point.ms:.1f}",
                f"{self.reference.ms / point.ms:.2f}",
                *([] if point.ap is None else [f"{point.ap:.3f}"]),
                f"{point.self_ap:.3f}",
                "itself" if point.plain else "–" if instead is None else f"{instead:.3f}",
            )
        return table

    def _picked(self, picked: Picked) -> Iterator[RenderableType]:
        point = picked.point
        yield Text(f"{picked.wish}: {point}, {point.ms:.1f} ms, {point.quality:.3f}", style="bold")
        if not point.plain and picked.instead is not None:
            yield Text(f"The original with a smaller photo keeps {picked.instead:.3f} that fast.")
        files = f"{picked.network} and {picked.bundle}" if picked.bundle else picked.network
        yield Text(f"Written: {files}; made again by", style="green")
        yield from map(Text, picked.commands)


def _brief(why: str) -> str:
    """Reasons that name another candidate, or its figures, as one."""
    if "a smaller photo alone keeps" in why:
        return "a smaller photo alone keeps more that fast"
    return "another is no slower and no worse" if "is no slower" in why else why


def drawing(report: SearchReport) -> str:
    """Quality over time: smaller photos alone, a line a precision; and the frontier, as SVG."""
    points = [*report.plain, *report.frontier]
    slowest = max(point.ms for point in points)
    least = min(point.quality for point in points)
    quarters = (0.0, 0.25, 0.5, 0.75, 1.0)
    low = max(0.0, least - 0.05)
    high = max(point.quality for point in points)
    measure = "self-AP" if report.reference.ap is None else "AP"
    kind = "measured" if report.device == LOCAL else f"predicted for {report.device}"
    plot = Plot(
        Axis(f"ms, {kind}", [part * slowest for part in quarters], "{:.0f}".format),
        Axis(measure, [low + part * (high - low or 1) for part in quarters], "{:.2f}".format),
    )
    precisions = dict.fromkeys(point.precision for point in report.plain)
    colors = cycle(COLORS)
    for precision, color in zip(precisions, colors, strict=False):
        same = [point for point in report.plain if point.precision == precision]
        plot.line(_places(frontier(same)), color, f"smaller photos, {precision}")
    color = next(colors)
    plot.line(_places(report.frontier), color, "the best of all")
    for point in report.frontier:
        plot.dot((point.ms, point.quality), f"{point.height} {point.precision}", color)
    return str(plot)


def _places(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(point.ms, point.quality) for point in points]
