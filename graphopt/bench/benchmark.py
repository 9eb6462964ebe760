"""How long a network takes, beside other engines and layer by layer.

A machine's speed drifts, with its temperature and with what else it does. So engines take turns
(A B C, B C A, C A B …), and what counts is a median over rounds and how far rounds disagree; a
single measurement says little. A fast wrong answer is no answer: every engine's outputs are
compared with onnxruntime's on the same input, and the difference stands beside the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.bench.bench_report import BenchReport, LayerTiming
from graphopt.bench.competitors import Job, check_names, open_competitor
from graphopt.bench.memory_usage import peak_memory
from graphopt.bench.options import BenchOptions
from graphopt.bench.roofline import measure_peak
from graphopt.bench.stage_timing import measure_budget
from graphopt.bench.turns import LineUp, line_up, measure, summarise
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import GraphoptError, UsageError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.arrays import Array
from graphopt.ir.files import is_unchanged
from graphopt.ir.network import Network
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.pose.images import read_photo
from graphopt.pose.spec import read_pose_spec
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine
from graphopt.runtime.open import open_bundle
from graphopt.runtime.runner import BundleRunner
from graphopt.runtime.sample_inputs import sample_feeds
from graphopt.runtime.threads import usable_cores

LOOKED_AT = 20
"""Files beside a network, at most, that may be what it was made from."""


def bench(
    path: Path,
    options: BenchOptions = BenchOptions(),
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Measure a compiled network beside other engines.

    Args:
        path: a bundle, or an ONNX file, which is compiled for this machine's CPU first.
        options: what is measured beside it, and how often.
        progress: called with what is being done.

    Raises:
        GraphoptError: the file cannot be read, compiled or run. A competitor that fails is no
            error: it is reported as unavailable.
    """
    check_names(options.vs)
    picture = read_photo(options.photo) if options.photo else None
    threads, rounds = options.threads or usable_cores(), options.num_runs
    with TemporaryDirectory(prefix="graphopt-bench-") as folder:
        scratch = Path(folder)
        bundle = _bundle(path, options, scratch, progress)
        contest = _Contest.prepare(bundle, options.original, threads, scratch)
        progress("loading the network into each engine")
        ready = contest.line_up(options.vs)
        times = _timed(ready.engines, contest.feeds, options, progress)
        size = sum(file.stat().st_size for file in bundle.iterdir())
        memory = contest.memory(ready.engines, progress)
        budget = None
        if options.photo and picture:
            progress("measuring the way of a photo")
            budget = measure_budget(contest.subject, options.photo, picture, rounds)
        layers = peak = None
        if options.per_layer:
            progress("measuring the machine's peak")
            peak = measure_peak(read_bundle(bundle).manifest.target.name, threads)
            progress("measuring layers")
            layers = LayerTiming.of(contest.subject.profile(contest.feeds, rounds), peak)
    timings, ratios, spread = summarise([engine.name for engine in ready.engines], times)
    return BenchReport(
        engines=timings,
        ratios=ratios,
        ratio_p10_p90=spread,
        difference=ready.difference,
        files=contest.files(ready.engines),
        remark=_remark(contest.own, contest.rivals, contest.off()),
        unavailable=ready.unavailable,
        threads=threads,
        rounds=rounds,
        model=str(path),
        input=contest.shapes,
        compiled_here=bundle is not path,
        memory=memory,
        bundle_bytes=size,
        layers=layers,
        peak=peak,
        budget=budget,
    )


def _bundle(
    path: Path, options: BenchOptions, scratch: Path, progress: Callable[[str], None]
) -> Path:
    """The bundle that is measured: `path`, or what it is compiled into."""
    if not path.is_dir():
        progress(f"compiling {path.name}")
        bundle = scratch / "bundle"
        as_it_comes = CompileOptions(input_shape=options.input_shape, tuning="off")
        compile_model(path, bundle, as_it_comes, progress=progress)
        return bundle
    if options.input_shape:
        raise UsageError(
            "--input-shape: a bundle is compiled for one size",
            hint="give the ONNX file, or compile it again with --input-shape",
        )
    return path


@dataclass(frozen=True)
class _Contest:
    """What engines are to run, and what is right.

    Args:
        bundle: the network that is measured.
        subject: its engine.
        own: the network that the bundle was compiled from.
        rivals: the one that other engines run.
        model: that one at the bundle's size, for engines to load.
        shapes: the inputs' sizes.
        feeds: the input.
        right: onnxruntime's outputs of `own`.
        expected: and of `rivals`.
        threads: of every engine.
        scratch: a folder for files.
    """

    bundle: Path
    subject: BundleRunner
    own: Path
    rivals: Path
    model: Path
    shapes: dict[str, tuple[int, ...]]
    feeds: dict[str, Array]
    right: Mapping[str, Array]
    expected: Mapping[str, Array]
    threads: int
    scratch: Path

    @classmethod
    def prepare(cls, bundle: Path, original: Path | None, threads: int, scratch: Path) -> _Contest:
        """A contest of a bundle with engines that run `original`.

        Raises:
            GraphoptError: a file cannot be read, or the bundle does not run.
        """
        subject = open_bundle(bundle, threads=threads)
        shapes = {n: tuple(d for d in dims if d) for n, dims in subject.inputs.items()}
        own = read_bundle(bundle).source()
        rivals = original or original_of(own) or own
        graph, model = NetworkFile(path=own, size=shapes).written(scratch / "model.onnx")
        feeds = usual_feeds(bundle, graph, shapes)
        subject.run(feeds)  # a competitor may fail; this one must not
        right = expected = OnnxRuntimeEngine(model, threads=threads).run(feeds)
        if rivals != own:
            _, model = NetworkFile(path=rivals, size=shapes).written(scratch / "original.onnx")
            expected = OnnxRuntimeEngine(model, threads=threads).run(feeds)
        return cls(
            bundle, subject, own, rivals, model, shapes, feeds, right, expected, threads, scratch
        )

    def off(self) -> float | None:
        """How far the two networks' outputs are apart; None where none are of one name."""
        shared = [name for name in self.right if name in self.expected]
        return max((difference(self.right[n], self.expected[n]) for n in shared), default=None)

    def job(self, place: Path) -> Job:
        """What a competitor is asked to run, with a folder for its files."""
        outputs = {name: value.shape for name, value in self.expected.items()}
        return Job(self.model, self.shapes, outputs, self.threads, place)

    def line_up(self, names: Sequence[str]) -> LineUp:
        """The bundle's engine, and those competitors that can run."""

        def opener(name: str) -> Callable[[], Engine]:
            place = self.scratch / name
            place.mkdir()
            return lambda: open_competitor(name, self.job(place))

        openers = {name: opener(name) for name in dict.fromkeys(names)}
        ready = line_up({"graphopt": lambda: self.subject}, self.feeds, self.right)
        others = line_up(openers, self.feeds, self.expected)
        ready.engines += others.engines
        ready.difference |= others.difference
        ready.unavailable |= others.unavailable
        return ready

    def memory(self, engines: Sequence[Engine], progress: Callable[[str], None]) -> dict[str, int]:
        """The peak memory of each engine, by name, where it can be measured."""
        memory = {}
        for engine in engines:
            progress(f"memory of {engine.name}")
            job = self.job(self.scratch)
            with suppress(GraphoptError):  # a measurement less, beside those that there are
                memory[engine.name] = peak_memory(engine.name, job, self.bundle, self.feeds)
        return memory

    def files(self, engines: Sequence[Engine]) -> dict[str, str]:
        """Which network each engine ran."""
        return {e.name: str(self.own if e.name == "graphopt" else self.rivals) for e in engines}


def _timed(
    engines: Sequence[Engine],
    feeds: Mapping[str, Array],
    options: BenchOptions,
    progress: Callable[[str], None],
) -> NDArray[np.float64]:
    """Milliseconds of each engine in each round, as `measure` has them."""
    total, done = options.warmup_runs + options.num_runs, 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(f"round {done} of {total}")

    return measure(
        engines,
        feeds,
        rounds=options.num_runs,
        warmup_rounds=options.warmup_runs,
        after_round=count,
    )


def usual_feeds(
    bundle: Path, graph: gs.Graph, shapes: Mapping[str, Sequence[int]]
) -> dict[str, Array]:
    """What a network is used to: a photo-like picture through its own pre-processing.

    Speed depends on it: far outside of its range, gates give numbers that CPUs are slow at. Other
    networks than pose networks get noise about zero.
    """
    pose = bundle / "pose.json"
    if not pose.is_file() or len(graph.inputs) != 1:
        return dict(sample_feeds(graph, shapes)[-1])
    images = Calibration.synthetic(graph, read_pose_spec(pose))
    return next(images.feeds(images.fitting))


@dataclass(frozen=True)
class NetworkFile:
    """The file that an engine runs."""

    path: Path
    size: Mapping[str, tuple[int, ...]]
    """What its inputs are fixed at."""

    def written(self, path: Path) -> tuple[Network, Path]:
        """The network at that size, and a file of it for engines to load."""
        graph = load_model(self.path, self.size)
        save_model(graph, path)
        return graph, path


def original_of(network: Path) -> Path | None:
    """The file that `graphopt optimize` made a network from, if it still lies beside it.

    Raises:
        InputError: the network cannot be read.
    """
    wanted = load_model(network).header.metadata.get("graphopt.input_sha256")
    if wanted is None:
        return None
    beside = sorted(path for path in network.parent.glob("*.onnx") if path != network)
    first = network.with_name(network.name.replace(".opt.onnx", ".onnx"))
    beside.sort(key=lambda path: path != first)  # what it is called unless -o says otherwise
    return next((path for path in beside[:LOOKED_AT] if is_unchanged(path, wanted)), None)


def _remark(own: Path, rivals: Path, off: float | None) -> str:
    """What to know of a network that was rewritten."""
    if rivals != own:
        by = "" if off is None else f", whose outputs differ from its by {off:.1e} of their range"
        return f"others run {rivals.name}; graphopt runs {own.name}{by}"
    if "graphopt.pipeline" in load_model(own).header.metadata:
        return (
            f"every engine ran {own.name}, which graphopt optimize rewrote: others may be faster "
            "on the network that it was made from (--original A.onnx)"
        )
    return ""
