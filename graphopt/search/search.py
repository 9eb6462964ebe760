"""The plain function behind `graphopt search`: every lever, and what is worth having of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from graphopt.analysis.latency.device import Device, Precision, load_device
from graphopt.compiler.auto_precision import candidates as float_precisions
from graphopt.compiler.auto_precision import usual_precision
from graphopt.compiler.options import CompileOptions
from graphopt.errors import GraphoptError, InputError
from graphopt.pose.evaluate import check_judged, detections
from graphopt.search.candidates import Candidate, rewritings
from graphopt.search.frontier import Point, Rejected, Wish, beaten_by, frontier
from graphopt.search.material import owner_of, photos_for
from graphopt.search.notebook import FAILED, Notebook
from graphopt.search.options import LOCAL, SearchOptions
from graphopt.search.pick import write
from graphopt.search.quality import Judge, Quality, as_truth
from graphopt.search.report import SearchReport
from graphopt.search.subject import Subject
from graphopt.search.timing import expected, measured, opened, predicted
from graphopt.search.workshop import Workshop

SLACK = 1.2
"""What is expected to take so many times as long as another that is no worse is not timed."""
SHARES = {"networks": 0.5, "judging": 0.65, "bundles": 0.95}
"""The part of the budget after which each stage begins nothing new."""


def search(
    path: Path,
    folder: Path,
    options: SearchOptions,
    *,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> SearchReport:
    """Try every lever on a pose network, alone and together, and keep what none beats.

    A stopped search goes on from its folder; what was done there is not done again.

    Args:
        path: the network.
        folder: for networks, bundles and results.
        options: what is tried, and what it is judged on.
        progress: told what is being done.
        clock: seconds.

    Raises:
        GraphoptError: the network, the photos or the options cannot be used; the original cannot
            be compiled; nothing fulfils the wish of `pick`.
    """
    wish = Wish.read(options.pick) if options.pick else None
    started = clock()
    progress("reading the network")
    subject = Subject.read(path, options)
    check_judged(subject.spec.skeleton)
    photos, truth, options = photos_for(subject, options)
    notebook = Notebook(folder, owner_of(subject, photos, options))
    workshop = Workshop(subject, options, folder, notebook)
    run = _Search(workshop, photos, truth, progress, lambda: (clock() - started) / 60)
    report = run.report()
    if wish is None:
        return report
    point = wish.best(report.frontier, report.reference)
    (candidate,) = (one for one, found in run.points.items() if found == point)
    return replace(report, picked=write(wish, candidate, point, report, workshop, progress))


@dataclass
class _Search:
    """A search on its way."""

    workshop: Workshop
    photos: Mapping[int, Path]
    truth: dict[str, Any] | None
    progress: Callable[[str], None]
    minutes: Callable[[], float]
    """Since it began."""

    def __post_init__(self) -> None:
        self.options, self.notebook = self.workshop.options, self.workshop.notebook
        self.device: Device | None = None
        if self.options.device != LOCAL:
            self.device = load_device(self.options.device)
        self.usual = self.workshop.subject.heights[0]
        self.rejected: dict[Candidate, str] = {}
        self.points: dict[Candidate, Point] = {}

    def report(self) -> SearchReport:
        """Everything, stage by stage."""
        everything = self.candidates()
        judge = self.judge()
        made = self.networks(everything)
        judged = self.qualities(made, judge)
        if self.device is None:
            times, judged = self.timed(judged, judge)
        else:
            times = {one: self.prediction(one) for one in judged}
        points = self.points = {one: self.point(one, times[one], judged[one]) for one in times}
        best = frontier(list(points.values()))
        for one, point in points.items():
            if beater := beaten_by(point, best):
                self.rejected[one] = f"{beater} is no slower and no worse"
        reference = Candidate(self.usual, self.precisions[0])
        return SearchReport(
            network=str(self.workshop.subject.path),
            device=self.options.device,
            threads=self.options.threads,
            photos=len(self.photos),
            fitted=self.options.calib_photos,
            reference=points[reference],
            frontier=tuple(best),
            plain=tuple(p for one, p in points.items() if one.plain),
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

    def late(self, stage: str) -> bool:
        """Whether a stage may begin nothing new."""
        budget = self.options.budget_minutes
        return budget is not None and self.minutes() > SHARES[stage] * budget

    def not_tried(self, candidate: Candidate) -> None:
        """Say that time did not suffice."""
        self.rejected[candidate] = (
            f"not tried: {self.options.budget_minutes:g} minutes did not suffice"
        )

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
            if not one.plain and self.late("networks"):
                continue

            def tell(what: str, now: str = f"networks: {number} of {len(files)}") -> None:
                self.progress(f"{now} ({what})")

            made[pipeline] = self.workshop.network(one, tell)
        for one in everything:
            if one.pipeline not in made:
                self.not_tried(one)
            elif isinstance(why := made[one.pipeline], str):
                self.rejected[one] = why
        return {one: path for one in everything if isinstance(path := made.get(one.pipeline), Path)}

    def qualities(self, made: Mapping[Candidate, Path], judge: Judge) -> dict[Candidate, Quality]:
        """How good candidates' poses are by onnxruntime, whatever floats they are computed in."""
        judged: dict[Candidate, Quality] = {}
        for number, (one, path) in enumerate(made.items()):
            name = f"quality: {one.height} {one.pipeline}"
            if name not in self.notebook and not one.plain and self.late("judging"):
                self.not_tried(one)
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

    def prediction(self, one: Candidate) -> float:
        """Milliseconds on the device."""
        assert self.device is not None
        network = self.workshop.network(one, self.progress)
        assert isinstance(network, Path)
        return predicted(one, network, self.workshop, self.device)

    def timed(
        self, judged: Mapping[Candidate, Quality], judge: Judge
    ) -> tuple[dict[Candidate, float], dict[Candidate, Quality]]:
        """Milliseconds here, and the quality of bundles, of what is worth being compiled."""
        anchors = {p: Candidate(self.usual, p) for p in self.precisions}
        bundles = self.bundles(list(anchors.values()))
        lost = [one for one in anchors.values() if one not in bundles]
        if lost and lost[0].precision == self.precisions[0]:
            raise GraphoptError(f"the original cannot be compiled: {self.rejected[lost[0]]}")
        first = self.times(bundles)
        known = {
            one: quality
            for one, quality in judged.items()
            if one.precision in {anchor.precision for anchor in bundles}
        }
        rough = expected(
            list(known), {a.precision: ms for a, ms in first.items()}, self.workshop, self.progress
        )
        worth = [one for one in known if one.plain or self.may_pay(one, known, rough)]
        for one in known:
            if one not in worth:
                self.rejected[one] = "expected to be slower than another that is no worse"
        bundles |= self.bundles([one for one in worth if one not in bundles])
        times = self.times(bundles)
        qualities: dict[Candidate, Quality] = {}
        for number, (one, bundle) in enumerate(bundles.items()):
            self.progress(f"judging bundles: {number} of {len(bundles)} ({one})")

            def look(bundle: Path = bundle) -> Any:
                return judge(opened(bundle, self.workshop)).to_plain()

            found = self.notebook.once(f"bundle's: {one}", look)
            if FAILED in found:
                self.rejected[one] = found[FAILED]
            else:
                qualities[one] = Quality.from_plain(found)
        original = anchors[self.precisions[0]]
        if original not in qualities:
            raise GraphoptError(f"the original's bundle does not run: {self.rejected[original]}")
        return {one: times[one] for one in qualities}, {**judged, **qualities}

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

    def bundles(self, chosen: Sequence[Candidate]) -> dict[Candidate, Path]:
        """Bundles of candidates, those that time suffices for."""
        made: dict[Candidate, Path] = {}
        for number, one in enumerate(chosen):
            if f"bundle: {one}" not in self.notebook and self.late("bundles"):
                self.not_tried(one)
                continue

            def tell(what: str, now: str = f"bundles: {number} of {len(chosen)}") -> None:
                self.progress(f"{now} ({what})")

            bundle = self.workshop.bundle(one, tell)
            if isinstance(bundle, str):
                self.rejected[one] = bundle
            else:
                made[one] = bundle
        return made

    def times(self, bundles: Mapping[Candidate, Path]) -> dict[Candidate, float]:
        """Milliseconds of bundles, all measured in one run, or as they were in an earlier one."""
        names = sorted(map(str, bundles))
        key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]

        def time_all() -> dict[str, float]:
            photos = list(self.photos.values())
            found = measured(bundles, photos, self.workshop, self.progress)
            return {str(one): round(ms, 3) for one, ms in found.items()}

        times = self.notebook.once(f"times: {key}", time_all)
        if FAILED in times:
            raise GraphoptError(times[FAILED])
        return {one: times[str(one)] for one in bundles}

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
