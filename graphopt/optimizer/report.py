"""The result of `graphopt optimize`: as JSON, and as tables for people."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.analysis.compare import PoseChange
from graphopt.analysis.cost import Cost
from graphopt.analysis.latency.device import Device
from graphopt.display.numbers import human, named_sizes
from graphopt.display.tables import Grid, Kind
from graphopt.fitting.calibration import SYNTHETIC_WARNING, Calibration
from graphopt.ir.changes import ALL
from graphopt.ir.records import HIDDEN, Record
from graphopt.optimizer.outcome import PassStep, PipelineResult
from graphopt.optimizer.verify import EXACT_LIMIT


@dataclass(frozen=True)
class Report(Record):
    """What `graphopt optimize` did. Its JSON form is stable, and ends with `remarks`."""

    input: str
    output: str
    pipeline: str
    before: Cost
    after: Cost
    device: str | None
    """The device that times are predicted for."""
    ms_before: float | None
    ms_after: float | None
    passes: tuple[PassStep, ...]
    remarks: tuple[str, ...]
    """What the reader should know about how it was done."""
    sizes: Annotated[Mapping[str, tuple[int, ...]], HIDDEN]
    """The input sizes that MACs were counted and outputs compared at."""
    uncounted: Annotated[int, HIDDEN]
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
        """The report of a pipeline's result, the images it was fitted or judged on, the device."""
        return cls(
            input=str(source),
            output=str(output),
            pipeline=pipeline,
            before=result.before,
            after=result.after,
            device=device.name if device else None,
            ms_before=result.ms_before,
            ms_after=result.ms_after,
            passes=result.steps,
            remarks=(*remarks, *(_remarks(calibration) if calibration else ())),
            sizes=result.input_shapes,
            uncounted=max(result.before.uncounted, result.after.uncounted),
        )

    def __rich__(self) -> RenderableType:
        """Pass by pass, then what was left alone, then before and after; see `verdict` too."""
        return Group(*self.parts())

    def verdict(self) -> tuple[str, ...]:
        """What became faster, by how much and at what cost; then what to do next: two lines."""
        if not any(entry.changes for entry in self.passes):
            why, command = self._why_nothing()
            return (
                f"{self.output}: nothing was changed: {why}",
                f"next: {command}",
            )
        return (
            f"{self.output}: {self._gain()}; {self._price()}",
            f"next: graphopt compile {shlex.quote(self.output)}",
        )

    def _gain(self) -> str:
        at = named_sizes(self.sizes)
        if self.ms_before and self.ms_after:
            times = f"{self.ms_before:.1f} → {self.ms_after:.1f} ms, predicted, at {at}"
            times_as_fast = f"{self.ms_before / self.ms_after:.2f}"
            faster = "no faster" if times_as_fast == "1.00" else f"{times_as_fast} times as fast"
            return f"{faster} on {self.device} ({times})"
        gain = f"nodes {self.before.nodes} → {self.after.nodes}"
        if self.before.nodes == self.after.nodes:
            gain = f"{sum(len(entry.changes) for entry in self.passes)} places rewritten"
        if self.before.kept_macs != self.after.kept_macs:
            gain += f", MACs {human(self.before.kept_macs)} → {human(self.after.kept_macs)} at {at}"
        return gain

    def _price(self) -> str:
        moved = next((e.max_abs_diff for e in reversed(self.passes) if not e.reverted), None)
        if moved is None:
            return "outputs were not compared"
        cost = "outputs unchanged"
        if moved:
            equal = "equal within" if moved <= EXACT_LIMIT else "move by at most"
            cost = f"outputs {equal} {moved:.0e} of their range"
        poses = self._last_poses()
        if poses is not None:
            return (
                f"{cost}; {poses.people} people in {poses.images} photos: OKS {poses.oks:.3f}, key "
                f"points move by {poses.mean_shift:.2f} pixels"
            )
        judged = moved <= EXACT_LIMIT
        return cost if judged else f"{cost}; poses not judged: no photos (--calib DIR)"

    def _why_nothing(self) -> tuple[str, str]:
        """Why no pass changed anything, and the command that helps."""
        source, output = shlex.quote(self.input), shlex.quote(self.output)
        reasons = Counter(skip.reason for entry in self.passes for skip in entry.skips)
        failed = next((entry for entry in self.passes if entry.failure), None)
        if failed is not None:
            return f"{failed.name}: {failed.failure}", f"graphopt explain {source} --pass " + (
                shlex.quote(failed.name)
            )
        if any("--input-shape" in reason for reason in reasons):
            return (
                "its input's size is not known",
                f"graphopt optimize {source} --input-shape 1,3,368,656",
            )
        if self.device is None:
            return (
                "it has nothing that these passes look for",
                f"graphopt optimize {source} --preset mobile",
            )
        return (
            f"it is as fast on {self.device} as passes that keep its poses can make it",
            f"graphopt compile {output}, or trade accuracy for speed: graphopt optimize {source} "
            f"--calib PHOTOS --speedup 1.5 --device {shlex.quote(self.device)}",
        )

    def parts(self, *, verbose: bool = False) -> Iterator[RenderableType]:
        """What `__rich__` shows; `verbose`: passes that changed nothing and all reasons too."""
        for remark in self.remarks:
            yield Text(remark, style="yellow")
        shown = [e for e in self.passes if verbose or e.changes or e.failure]
        if shown:
            yield self._table(shown, verbose=verbose)
        busy = {_brief(entry) for entry in shown}
        if idle := [e for e in map(_brief, self.passes) if e not in busy]:
            yield Text(f"changed nothing: {', '.join(dict.fromkeys(idle))}", style="dim")
        yield from self._skipped(verbose=verbose)
        for entry in self.passes:
            if entry.failure:
                done = "was taken back" if entry.reverted else "failed its check"
                yield Text(f"{entry.name} {done}: {entry.failure}", style="red")
        yield from self._poses()
        at = named_sizes(self.sizes)
        measured = any(entry.max_abs_diff is not None for entry in self.passes)
        what = ["MACs", *(["milliseconds"] if self.device else [])]
        what += ["differences"] if measured else []
        yield Text(f"{_listed(what)} at {at or 'no known input size'}.", style="dim")
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
        )
        if self.device and (self.ms_before is None or self.ms_after is None):
            yield Text(f"No time can be predicted for {self.device}: shapes are not known.")

    def _table(self, entries: Sequence[PassStep], *, verbose: bool) -> Grid:
        """A line for each of some passes."""
        judged = any(entry.poses for entry in entries)
        numbers = ["changed", "left", "MACs", *(["ms"] if self.device else []), "difference"]
        numbers += ["shift", "OKS"] if judged else []
        columns = {"pass": Kind.WORDS, "numerics": Kind.WORDS}
        table = Grid(columns | dict.fromkeys(numbers, Kind.NUMBER))
        start = _milliseconds(self.ms_before) if self.device else ()
        ends = [""] * (3 if judged else 1)
        table.add("(input)", "", "", "", human(self.before.kept_macs), *start, *ends, style="dim")
        for entry in entries:
            table.add(
                entry.name if verbose else _brief(entry),
                "reverted" if entry.reverted else entry.numerics.value,
                str(len(entry.changes)),
                str(len(entry.skips)),
                human(entry.cost.kept_macs),
                *(_milliseconds(entry.ms) if self.device else ()),
                "–" if entry.max_abs_diff is None else f"{entry.max_abs_diff:.1e}",
                *(_pose_cells(entry.poses) if judged else ()),
                style="red" if entry.failure else "",
            )
        return table

    def _last_poses(self) -> PoseChange | None:
        return next((e.poses for e in reversed(self.passes) if e.poses and not e.reverted), None)

    def _poses(self) -> Iterator[RenderableType]:
        """What the pose columns mean, and what the result does to people."""
        last = self._last_poses()
        if last is None:
            return
        yield Text(
            f"Against the original on {last.images} photos that nothing was fitted on: mean shift "
            "of key points in pixels of the input, OKS; the outputs' error is "
            f"{last.error:.3f} of their deviation.",
            style="dim",
        )
        yield Text(f"of {last.people} people {last.lost} are lost, {last.added} added")

    def _skipped(self, *, verbose: bool) -> Iterator[RenderableType]:
        """The reasons of the last run of each pass: earlier ones may have been settled since."""
        last = {entry.name: entry for entry in self.passes}
        for entry in last.values():
            name = entry.name if verbose else _brief(entry)
            for skip in entry.skips:
                if skip.node == ALL:
                    yield Text(f"{name}: {skip.reason}")
            parts = [skip for skip in entry.skips if skip.node != ALL]
            reasons = Counter(skip.reason for skip in parts).most_common()
            for reason, count in reasons if verbose else reasons[:1]:
                example = next(skip.node for skip in parts if skip.reason == reason)
                yield Text(f"{name} left {count}: {reason} (such as {example})")
            if len(reasons) > 1 and not verbose:
                rest = sum(count for _, count in reasons[1:])
                yield Text(f"{name} left {rest} more for other reasons: see --verbose")


def _brief(entry: PassStep) -> str:
    """A pass without its options."""
    return entry.name.partition("{")[0]


def _listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _remarks(calibration: Calibration) -> Iterator[str]:
    yield from calibration.spec.guesses
    if calibration.made_up:
        yield SYNTHETIC_WARNING


def _milliseconds(ms: float | None) -> tuple[str]:
    return ("–" if ms is None else f"{ms:.1f}",)


def _pose_cells(poses: PoseChange | None) -> tuple[str, ...]:
    return ("–", "–") if poses is None else (f"{poses.mean_shift:.2f}", f"{poses.oks:.3f}")
