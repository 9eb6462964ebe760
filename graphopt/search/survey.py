"""A search on its way, stage by stage: made, judged, timed, and what none beats kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from graphopt.analysis.latency.device import Device, Precision, load_device
from graphopt.compiler.auto_precision import candidates as float_precisions
from graphopt.compiler.auto_precision import usual_precision
from graphopt.compiler.options import CompileOptions
from graphopt.errors import GraphoptError, InputError
from graphopt.pose.evaluate import detections
from graphopt.search.budget import Budget, OutOfTime
from graphopt.search.candidates import Candidate, Rewriting, rewritings
from graphopt.search.frontier import Point, Rejected, Wish, beaten_by, below_the_line, frontier
from graphopt.search.notebook import FAILED
from graphopt.search.options import LOCAL
from graphopt.search.quality import Judge, Quality, as_truth
from graphopt.search.race import FEW, Race
from graphopt.search.report import SearchReport
from graphopt.search.timing import expected, opened, predicted
from graphopt.search.workshop import Workshop

SLACK = 1.2
"""What is expected to take so many times as long as another that is no worse is not timed."""
NEAR = {True: (1.3, 1.2), False: (1.12, 1.08)}
"""How many times as fast, and as slow, as a wish asks for what is tried for it is expected to be:
the original with smaller photos, which others are compared with, and others."""


@dataclass
class Survey:
    """A search on its way."""

    workshop: Workshop
    photos: Mapping[int, Path]
    truth: dict[str, Any] | None
    progress: Callable[[str], None]
    budget: Budget
    wish: Wish | None = None
    """All that is to be found, if not everything."""

    def __post_init__(self) -> None:
        self.options, self.notebook = self.workshop.options, self.workshop.notebook
        self.device: Device | None = None
        if self.options.device != LOCAL:
            self.device = load_device(self.options.device)
        self.usual = self.workshop.subject.heights[0]
        self.rejected: dict[Candidate, str] = {}
        self.points: dict[Candidate, Point] = {}
        self.anchors: dict[Candidate, Path] = {}
        self.originals: dict[Candidate, Quality] = {}
        self.reference = Candidate(self.usual, self.precisions[0])
        photos = list(self.photos.values())
        self.race = Race(
            self.workshop, self.reference, photos, self.rejected, self.progress, self.budget
        )

    def report(self) -> SearchReport:
        """Everything, stage by stage."""
        everything = self.candidates()
        judge = self.judge()
        unfitted = [one for one in everything if one.plain and not one.int8]
        if self.budget.minutes is not None and unfitted:
            # What needs no fitting first, so that a short time has an answer, too.
            self.figures(unfitted, judge)
            self.rejected.clear()
        times, judged = self.figures(everything, judge)
        points = self.points = {one: self.point(one, times[one], judged[one]) for one in times}
        plain = tuple(point for one, point in points.items() if one.plain)
        above = [point for point in points.values() if below_the_line(point, plain) is None]
        best = frontier(above)
        for one, point in points.items():
            if line := below_the_line(point, plain):
                self.rejected[one] = f"a smaller photo alone keeps {line:.3f} that fast"
            elif beater := beaten_by(point, best):
                self.rejected[one] = f"{beater} is no slower and no worse"
        return SearchReport(
            network=str(self.workshop.subject.path),
            device=self.options.device,
            threads=self.options.threads,
            photos=len(self.photos),
            fitted=self.options.calib_photos,
            reference=points[self.reference],
            frontier=tuple(best),
            plain=plain,
            rejected=tuple(
                Rejected(
                    one.height,
                    one.precision,
                    one.pipeline,
                    why,
                    times.get(one),
                    judged[one].self_ap if one in judged else None,
                    judged[one].ap if one in judged else None,
                )
                for one, why in self.rejected.items()
            ),
        )

    def figures(
        self, tried: Sequence[Candidate], judge: Judge
    ) -> tuple[dict[Candidate, float], dict[Candidate, Quality]]:
        """Milliseconds and quality of those candidates that are worth it; `rejected` has others."""
        made = self.networks(tried)
        rough = self.expected(made, judge)
        made = {one: made[one] for one in rough}
        judged = self.qualities(self.wanted(made, rough), judge)
        if self.device is None:
            return self.timed(judged, rough, judge)
        return {one: rough[one] for one in judged}, judged

    @cached_property
    def precisions(self) -> list[Precision]:
        """What networks can be computed in, the usual one first."""
        if self.workshop.subject.quantised:
            return ["int8"]
        lower: list[Precision]
        if self.device is None:
            usual = usual_precision(self.workshop.subject.graph)
            floats = sorted(float_precisions(CompileOptions()), key=lambda name: name != usual)
            lower = ["int8"]
        else:
            floats = ["float32"]
            lower = [name for name in self.device.precisions if name != "float32"]
        lower = [name for name in lower if name != "int8" or "int8" in self.options.levers]
        return [*floats, *lower]

    def candidates(self) -> list[Candidate]:
        """All that could be tried, what is surest to pay first."""
        subject = self.workshop.subject
        ways = rewritings(subject.stages, self.options.levers)
        if subject.quantised:
            ways = ways[:1]
        return [
            Candidate(height, precision, way)
            for way in ways
            for precision in self.precisions
            for height in subject.heights
        ]

    def judge(self) -> Judge:
        """What candidates are judged by, the original's own poses among it."""
        original = Candidate(self.usual, "float32")

        def poses() -> Any:
            found = self.workshop.estimator(original, self.workshop.subject.path)
            told = self.counting("the original's poses, photo")
            return as_truth(detections(found, self.photos, told), self.photos)

        own = self.notebook.once("original", poses)
        if FAILED in own:
            raise GraphoptError(own[FAILED])
        if not own["annotations"]:
            raise InputError(
                f"the original finds nobody in the {len(self.photos)} photos that it is judged on",
                hint="give photos of people, as the network will see them",
            )
        return Judge(self.photos, own, self.truth)

    def counting(self, what: str) -> Callable[[int, int], None]:
        """Tell how many of something are done."""
        return lambda done, total: self.progress(f"{what} {done} of {total}")

    def networks(self, everything: Sequence[Candidate]) -> dict[Candidate, Path]:
        """The files of candidates that can be made, each made once."""
        files = {one.pipeline: one for one in everything}
        made: dict[str, Path | str] = {}
        for number, (pipeline, one) in enumerate(files.items()):
            original = pipeline == self.reference.pipeline
            known = original or f"network: {pipeline}" in self.notebook
            if not known and self.budget.late("networks"):
                continue

            def tell(what: str, now: str = f"networks: {number} of {len(files)}") -> None:
                self.progress(f"{now} ({what})")

            try:
                made[pipeline] = self.workshop.network(
                    one, tell if known else self.budget.ending("networks", tell)
                )
            except OutOfTime:
                continue
        for one in everything:
            if one.pipeline not in made:
                self.rejected[one] = self.budget.over
            elif isinstance(why := made[one.pipeline], str):
                self.rejected[one] = why
        return {one: path for one in everything if isinstance(path := made.get(one.pipeline), Path)}

    def qualities(self, made: Mapping[Candidate, Path], judge: Judge) -> dict[Candidate, Quality]:
        """How good candidates' poses are by onnxruntime, whatever floats they are computed in."""
        judged: dict[Candidate, Quality] = {}
        for number, (one, path) in enumerate(made.items()):
            if one in self.originals:  # its bundle was judged
                judged[one] = self.originals[one]
                continue
            name = f"quality: {one.height} {one.pipeline}"
            if name not in self.notebook and one != self.reference and self.budget.late("judging"):
                self.rejected[one] = self.budget.over
                continue
            self.progress(f"judging: {number} of {len(made)} ({one})")

            def look(one: Candidate = one, path: Path = path) -> Any:
                return judge(self.workshop.estimator(one, path)).to_plain()

            found = self.notebook.once(name, look)
            if FAILED in found:
                self.rejected[one] = found[FAILED]
            else:
                judged[one] = Quality.from_plain(found)
        return judged

    def expected(self, made: Mapping[Candidate, Path], judge: Judge) -> dict[Candidate, float]:
        """Milliseconds of networks: on the device as predicted, here about, as far as known."""
        if self.device is not None:
            return {
                one: predicted(one, path, self.workshop, self.device) for one, path in made.items()
            }
        if self.reference not in made:
            raise GraphoptError(f"the original cannot be compiled: {self.rejected[self.reference]}")
        anchors = [one for p in self.precisions if (one := Candidate(self.usual, p)) in made]
        bundles = self.race.bundles(anchors)
        # Those that cannot be opened cannot be timed either.
        self.originals = self.looked_at(bundles, judge)
        self.anchors = {one: bundles[one] for one in self.originals}
        times = self.race.times(self.anchors, rounds=FEW)
        reference: dict[str, float] = {one.precision: ms for one, ms in times.items()}
        for one in made:
            if one.precision not in reference:
                self.rejected.setdefault(one, f"the original has no bundle in {one.precision}")
        known = [one for one in made if one.precision in reference]
        return expected(known, reference, self.workshop, self.progress)

    def wanted(
        self, made: Mapping[Candidate, Path], rough: Mapping[Candidate, float]
    ) -> dict[Candidate, Path]:
        """What may fulfil the wish, and the original; all where there is none for a speed."""
        most = self.wish.most_ms(rough[self.reference]) if self.wish else math.inf
        if most == math.inf:
            return dict(made)
        most = max(most, min(rough.values()))
        slowest: dict[tuple[Rewriting, Precision], float] = {}
        for one, ms in rough.items():
            if ms <= most:
                way = one.rewriting, one.precision
                slowest[way] = max(ms, slowest.get(way, 0.0))
        kept: dict[Candidate, Path] = {}
        for one, path in made.items():
            ms = rough[one]
            faster, slower = NEAR[one.plain]
            near = self.device is None or one.plain
            if (
                (one.plain and one.height == self.usual)
                or ms == slowest.get((one.rewriting, one.precision))
                or (near and most / faster <= ms <= most * slower)
            ):
                kept[one] = path
            else:
                how = "too slow for" if ms > most else "faster than"
                self.rejected[one] = f"expected to be {how} what is wished for"
        return kept

    def timed(
        self, judged: Mapping[Candidate, Quality], rough: Mapping[Candidate, float], judge: Judge
    ) -> tuple[dict[Candidate, float], dict[Candidate, Quality]]:
        """Milliseconds here, and the quality of bundles, of what is worth being compiled."""
        bundles = self.anchors
        worth = [one for one in judged if one.plain or self.may_pay(one, judged, rough)]
        for one in judged:
            if one not in worth:
                self.rejected[one] = "expected to be slower than another that is no worse"
        bundles = bundles | self.race.bundles([one for one in worth if one not in bundles])
        times = self.race.times(bundles)
        qualities = self.looked_at(bundles, judge)
        return {one: times[one] for one in qualities}, {**judged, **qualities}

    def looked_at(
        self, bundles: Mapping[Candidate, Path], judge: Judge
    ) -> dict[Candidate, Quality]:
        """How good bundles' poses are, of those that run.

        Raises:
            GraphoptError: the original's does not.
        """
        qualities: dict[Candidate, Quality] = {}
        for number, (one, bundle) in enumerate(bundles.items()):
            self.progress(f"judging bundles: {number} of {len(bundles)} ({one})")

            def look(bundle: Path = bundle) -> Any:
                return judge(opened(bundle, self.workshop)).to_plain()

            found = self.notebook.once(f"bundle's: {one}", look)
            if FAILED not in found:
                qualities[one] = Quality.from_plain(found)
            elif one == self.reference:
                raise GraphoptError(f"the original's bundle does not run: {found[FAILED]}")
            else:
                self.rejected[one] = found[FAILED]
        return qualities

    def may_pay(
        self,
        one: Candidate,
        judged: Mapping[Candidate, Quality],
        rough: Mapping[Candidate, float],
    ) -> bool:
        """Whether no other candidate is sure to be faster and no worse."""
        return not any(
            judged[other].counted >= judged[one].counted and SLACK * rough[other] < rough[one]
            for other in judged
        )

    def point(self, one: Candidate, ms: float, quality: Quality) -> Point:
        """A candidate as it is shown."""
        return Point(
            height=one.height,
            precision=one.precision,
            pipeline=one.pipeline,
            ms=round(ms, 3),
            self_ap=round(quality.self_ap, 4),
            ap=None if quality.ap is None else round(quality.ap, 4),
            plain=one.plain,
            command=self.workshop.command(one),
        )
