"""The result of `graphopt optimize`: as JSON, and as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.cost import Cost
from graphopt.fitting.calibration import SYNTHETIC_WARNING, Calibration
from graphopt.latency.device import Device
from graphopt.pipeline import PipelineResult, Step


class Totals(BaseModel):
    """What a network costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: int
    macs: int
    kept_params: int
    """Without those in blocks of zeros …"""
    kept_macs: int
    """… as here."""
    bytes: int
    nodes: int

    @classmethod
    def of(cls, cost: Cost) -> Totals:
        """The sums of a cost."""
        return cls.model_validate(cost, from_attributes=True)

    def cells(self) -> tuple[str, str, str]:
        """Parameters, multiply-adds and bytes as people read them."""
        params = _part(self.kept_params, self.params)
        return params, _part(self.kept_macs, self.macs), human(self.bytes)


class SkipEntry(BaseModel):
    """A place that a pass left alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    reason: str


class PoseEntry(BaseModel):
    """How the poses in some images changed, see `graphopt.compare.PoseChange`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    error: float
    people: int
    lost: int
    added: int
    mean_shift: float
    oks: float


class PassEntry(BaseModel):
    """What one pass did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    changes: int
    skips: tuple[SkipEntry, ...]
    max_abs_diff: float | None
    """Largest absolute difference of an output to the original network's, divided by that output's
    range; null when it was not measured, or when an output is not finite."""
    numerics: str
    seconds: float
    ms: float | None
    """The network's time after it as predicted for the device; null without one."""
    poses: PoseEntry | None
    """What became of the poses in held-out images, by it and all passes before it; null when that
    was not measured."""
    after: Totals = Field(exclude=True)
    failure: str | None = Field(exclude=True)
    reverted: bool = Field(exclude=True)

    @classmethod
    def of(cls, step: Step) -> PassEntry:
        """The entry of one step."""
        return cls(
            name=step.name,
            changes=len(step.changes),
            skips=tuple(SkipEntry(node=s.node, reason=s.reason) for s in step.skips),
            max_abs_diff=step.difference,
            numerics=step.numerics.value,
            seconds=step.seconds,
            ms=step.ms,
            poses=PoseEntry(**asdict(step.poses)) if step.poses else None,
            after=Totals.of(step.cost),
            failure=step.failure,
            reverted=step.reverted,
        )


class Report(BaseModel):
    """What `graphopt optimize` did; its JSON form is stable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str
    output: str
    pipeline: str
    before: Totals
    after: Totals
    device: str | None
    """That times are predicted for."""
    ms_before: float | None
    ms_after: float | None
    passes: tuple[PassEntry, ...]
    remarks: tuple[str, ...]
    """What the reader should know about how it was done."""
    sizes: Mapping[str, tuple[int, ...]] = Field(exclude=True)
    """The input sizes that MACs were counted and outputs compared at."""
    uncounted: int = Field(exclude=True)
    """Layers whose MACs are not in the sums, since their shapes are not known."""

    @classmethod
    def of(
        cls,
        source: Path,
        output: Path,
        pipeline: str,
        result: PipelineResult,
        calibration: Calibration | None = None,
        device: Device | None = None,
        remarks: Sequence[str] = (),
    ) -> Report:
        """The report of a pipeline's result, the images that it was judged on, and the device."""
        return cls(
            input=str(source),
            output=str(output),
            pipeline=pipeline,
            before=Totals.of(result.before),
            after=Totals.of(result.after),
            device=device.name if device else None,
            ms_before=result.ms_before,
            ms_after=result.ms_after,
            passes=tuple(PassEntry.of(step) for step in result.steps),
            remarks=(*remarks, *(_remarks(calibration) if calibration else ())),
            sizes=result.input_shapes,
            uncounted=max(result.before.uncounted, result.after.uncounted),
        )

    def to_json(self) -> str:
        """The JSON form."""
        return self.model_dump_json(indent=2) + "\n"

    def __rich__(self) -> RenderableType:
        """Pass by pass, then what was left alone, then before and after."""
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        table = Table(title=f"{self.input} → {self.output}", title_justify="left")
        for name in ("pass", "numerics"):
            table.add_column(name, overflow="fold")
        judged = any(entry.poses for entry in self.passes)
        columns = ["changed", "skipped", "params", "MACs", "bytes"]
        columns += ["ms", "difference"] if self.device else ["difference"]
        columns += ["error", "shift", "OKS"] if judged else []
        for name in (*columns, "seconds"):
            table.add_column(name, justify="right", no_wrap=True)
        start = _milliseconds(self.ms_before) if self.device else ()
        table.add_row("(input)", "", "", "", *self.before.cells(), *start, style="dim")
        for entry in self.passes:
            table.add_row(
                entry.name,
                "reverted" if entry.reverted else entry.numerics,
                str(entry.changes),
                str(len(entry.skips)),
                *entry.after.cells(),
                *(_milliseconds(entry.ms) if self.device else ()),
                "–" if entry.max_abs_diff is None else f"{entry.max_abs_diff:.1e}",
                *(_pose_cells(entry.poses) if judged else ()),
                f"{entry.seconds:.2f}",
                style="red" if entry.failure else None,
            )
        yield table
        yield from self._skipped()
        for entry in self.passes:
            if entry.failure:
                done = "was taken back" if entry.reverted else "failed its check"
                yield Text(f"{entry.name} {done}: {entry.failure}", style="red")
        if judged:
            yield from self._poses()
        for remark in self.remarks:
            yield Text(remark, style="yellow")
        at = named_sizes(self.sizes)
        measured = any(entry.max_abs_diff is not None for entry in self.passes)
        what = "MACs and differences" if measured else "MACs"
        yield Text(f"{what} at {at or 'no known input size'}.", style="dim")
        if self.uncounted:
            yield Text(
                f"{self.uncounted} layers of unknown shape are not in the MACs.", style="dim"
            )
        yield Text(
            f"nodes {self.before.nodes} → {self.after.nodes}, "
            + ", ".join(
                f"{name} {old} → {new}"
                for name, old, new in zip(
                    ("params", "MACs", "bytes"),
                    self.before.cells(),
                    self.after.cells(),
                    strict=True,
                )
            ),
            style="bold",
        )
        if self.device:
            yield self._prediction()

    def _prediction(self) -> Text:
        if self.ms_before is None or self.ms_after is None:
            return Text(f"No time can be predicted for {self.device}: shapes are not known.")
        times = f"{self.ms_before:.1f} → {self.ms_after:.1f} ms"
        return Text(f"predicted for {self.device}: {times}", style="bold")

    def _poses(self) -> Iterator[RenderableType]:
        """What the pose columns mean, and what the result does to people."""
        last = next((e.poses for e in reversed(self.passes) if e.poses and not e.reverted), None)
        if last is None:
            return
        yield Text(
            f"Against the original on {last.images} held-out images: error of the outputs relative "
            "to their deviation, mean shift of key points in pixels of the input, OKS.",
            style="dim",
        )
        yield Text(f"of {last.people} people {last.lost} are lost, {last.added} added")

    def _skipped(self) -> Iterator[RenderableType]:
        """The reasons of the last run of each pass: earlier ones may have been settled since."""
        last = {entry.name: entry for entry in self.passes}
        for entry in last.values():
            for reason, count in Counter(skip.reason for skip in entry.skips).most_common():
                example = next(skip.node for skip in entry.skips if skip.reason == reason)
                yield Text(f"{entry.name} left {count}: {reason} (such as {example})")


def _remarks(calibration: Calibration) -> Iterator[str]:
    yield from calibration.spec.guesses
    if calibration.made_up:
        yield SYNTHETIC_WARNING


def _part(kept: int, whole: int) -> str:
    """What is left of a number, where that is not all."""
    some, every = human(kept), human(whole)
    return every if some == every else f"{some} of {every}"


def _milliseconds(ms: float | None) -> tuple[str]:
    return ("–" if ms is None else f"{ms:.1f}",)


def _pose_cells(poses: PoseEntry | None) -> tuple[str, ...]:
    if poses is None:
        return "–", "–", "–"
    return f"{poses.error:.3f}", f"{poses.mean_shift:.2f}", f"{poses.oks:.3f}"


def human(count: int) -> str:
    """A count with three significant digits and a suffix: 4.10 M."""
    value = float(count)
    for suffix in ("", " k", " M", " G"):
        if value < 1000 or suffix == " G":
            break
        value /= 1000
    return f"{count}" if not suffix else f"{value:.{max(0, 3 - len(str(int(value))))}f}{suffix}"


def named_sizes(shapes: Mapping[str, Sequence[int]]) -> str:
    """Tensors and their shapes: data 1x3x368x656, …"""
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())


def console() -> Console:
    """The console for results; into a file or pipe, wide enough that no table is cut."""
    wide = Console()
    return wide if wide.is_terminal else Console(width=140)
