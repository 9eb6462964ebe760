"""How long a network takes, beside other engines and layer by layer.

A machine's speed drifts, with its temperature and with what else it does. So engines take turns
(A B C, B C A, C A B …), and what counts is a median over rounds and how far rounds disagree; a
single measurement says little. A fast wrong answer is no answer: every engine's outputs are
compared with onnxruntime's on the same input, and the difference stands beside the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.bench.competitors import Job, check_names, open_competitor
from graphopt.bench.memory_usage import peak_memory
from graphopt.bench.options import BenchOptions
from graphopt.bench.roofline import Peak, measure_peak
from graphopt.bench.stage_timing import Budget, measure_budget
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.display.numbers import named_sizes
from graphopt.display.tables import Grid, Kind
from graphopt.errors import GraphoptError, UsageError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.arrays import Array
from graphopt.ir.onnx_io import header_of, load_model, save_model, sha256_of
from graphopt.pose.images import read_photo
from graphopt.pose.spec import read_pose_spec
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine
from graphopt.runtime.runner import BundleRunner, LayerTime, open_bundle
from graphopt.runtime.sample_inputs import sample_feeds
from graphopt.runtime.threads import usable_cores

SUSPICIOUS = 1e-3
"""A difference, relative to an output's range, that float32 rounding does not explain."""

LOOKED_AT = 20
"""Files beside a network, at most, that may be what it was made from."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Timing(_Record):
    """Milliseconds for one run of the network: the median over rounds, and how far they spread."""

    median_ms: float
    p10_ms: float
    p90_ms: float

    @classmethod
    def of(cls, milliseconds: NDArray[np.float64]) -> Timing:
        """The summary of one time a round."""
        low, middle, high = np.percentile(milliseconds, (10, 50, 90))
        return cls(median_ms=middle, p10_ms=low, p90_ms=high)


class LayerTiming(_Record):
    """One layer of graphopt's: what it does, how long it takes, how near that is to the peak."""

    layer: str
    """The ONNX node."""
    kernel: str
    ms: float
    share: float
    """Of the time of all layers."""
    macs: int
    gflops: float
    """1e9 operations a second; a multiply-add is two."""
    of_peak: float
    """`gflops` / the measured peak. What needs more bytes than operations cannot come near 1."""
    bytes: int
    """Of the tensors that it reads and writes, weights included."""
    gbytes: float
    """1e9 bytes a second. Above the peak, they came from a cache."""

    @classmethod
    def of(cls, times: Sequence[LayerTime], peak: Peak) -> tuple[LayerTiming, ...]:
        """All layers of a network, from their times."""
        total = sum(layer.ms for layer in times)
        layers = []
        for layer in times:
            # 1e6 operations in a millisecond are 1e9 a second.
            gflops = 2e-6 * layer.macs / layer.ms
            layers.append(
                cls(
                    **vars(layer),
                    share=layer.ms / total,
                    gflops=gflops,
                    of_peak=gflops / peak.gflops,
                    gbytes=1e-6 * layer.bytes / layer.ms,
                )
            )
        return tuple(layers)


class BenchReport(_Record):
    """What `graphopt bench` measured; its JSON form is stable."""

    engines: dict[str, Timing]
    ratios: dict[str, float]
    """graphopt's median time / each engine's: below 1, graphopt is faster."""
    ratio_p10_p90: dict[str, tuple[float, float]]
    """How far the ratio spreads when it is taken within each round."""
    difference: dict[str, float]
    """The largest difference from onnxruntime's outputs on the same file, relative to the output's
    range."""
    files: dict[str, str]
    """The network that each engine ran; graphopt's bundle was compiled from its."""
    remark: str = ""
    """What to know where the network was rewritten; else empty."""
    unavailable: dict[str, str]
    """Engines that were asked for and did not run, and why."""
    threads: int
    rounds: int
    model: str
    input: dict[str, tuple[int, ...]]
    compiled_here: bool
    """True when the model was an ONNX file and graphopt's bundle was made for this measurement."""
    memory: dict[str, int]
    """The most bytes that a process holds which loads and runs nothing but that engine."""
    bundle_bytes: int
    """Of all files of graphopt's bundle."""
    layers: tuple[LayerTiming, ...] | None = None
    peak: Peak | None = None
    """Measured with the layers, on as many threads."""
    budget: Budget | None = None

    def __rich__(self) -> RenderableType:
        """Engine by engine, then who is missing, then layer by layer."""
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        numbers = ("median ms", "p10", "p90", "graphopt / it", "p10 … p90", "difference")
        columns = {"engine": Kind.KEY, "network": Kind.NAME, **dict.fromkeys(numbers, Kind.NUMBER)}
        table = Grid(columns, title=self.model)
        for name, timing in sorted(self.engines.items(), key=lambda item: item[1].median_ms):
            off = self.difference[name]
            low, high = self.ratio_p10_p90.get(name, (None, None))
            table.add(
                name,
                Path(self.files[name]).name,
                *(f"{ms:.2f}" for ms in (timing.median_ms, timing.p10_ms, timing.p90_ms)),
                f"{self.ratios[name]:.2f}" if name in self.ratios else "",
                f"{low:.2f} … {high:.2f}" if low is not None else "",
                Text(f"{off:.1e}", style="bold red" if off > SUSPICIOUS else ""),
            )
        yield table
        if self.remark:
            yield Text(self.remark, style="yellow")
        for name, reason in self.unavailable.items():
            yield Text(f"{name} is missing: {reason}", style="yellow")
        at = named_sizes(self.input)
        yield Text(
            f"{at}, {self.threads} threads, {self.rounds} rounds; the difference is from "
            "onnxruntime's outputs on the same network, relative to their range.",
            style="dim",
        )
        if self.compiled_here:
            yield Text("graphopt: compiled for this measurement, target cpu.", style="dim")
        held = ", ".join(f"{name} {bytes / 1e6:.0f} MB" for name, bytes in self.memory.items())
        yield Text(
            f"memory of a process that loads and runs it, at most: {held}; "
            f"graphopt's bundle: {self.bundle_bytes / 1e6:.1f} MB.",
            style="dim",
        )
        if self.budget is not None:
            yield from _budget_parts(self.budget)
        if self.layers is not None and self.peak is not None:
            yield _layer_table(self.layers)
            yield Text(
                f"peak: {self.peak.gflops:.0f} GFLOP/s and {self.peak.gbytes:.1f} GB/s, measured "
                f"here on {self.threads} threads: multiply-adds on registers alone, and a copy in "
                "memory. More GB/s than that come from caches.",
                style="dim",
            )


def _budget_parts(budget: Budget) -> Iterator[RenderableType]:
    columns = {"stage": Kind.KEY, "ms": Kind.NUMBER, "share": Kind.NUMBER}
    table = Grid(columns, title="graphopt, from photo to picture")
    total = sum(budget.ms.values())
    for stage, ms in budget.ms.items():
        table.add(stage, f"{ms:.2f}", f"{ms / total:.1%}")
    yield table
    photo = f"{budget.photo}, {' x '.join(map(str, budget.size))} pixels, people: {budget.people}"
    yield Text(photo, style="dim")


def _layer_table(layers: Sequence[LayerTiming]) -> Grid:
    numbers = ("ms", "share", "GFLOP/s", "of peak", "GB/s")
    columns = {"layer": Kind.NAME, "kernel": Kind.NAME, **dict.fromkeys(numbers, Kind.NUMBER)}
    table = Grid(columns, title="graphopt, layer by layer")
    for layer in layers:
        table.add(
            layer.layer,
            layer.kernel,
            f"{layer.ms:.3f}",
            f"{layer.share:.1%}",
            *((f"{layer.gflops:.1f}", f"{layer.of_peak:.0%}") if layer.macs else ("", "")),
            f"{layer.gbytes:.1f}",
        )
    return table


def measure(
    engines: Sequence[Engine],
    feeds: Mapping[str, Array],
    *,
    rounds: int,
    warmup_rounds: int,
    pause: float = 0.1,
    after_round: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """Run engines in turns.

    A turn is a pause, one run that is not counted and one that is. The pause lets the idle threads
    of the engine before it, which spin for a while, go to sleep: without it the slowest to wake is
    robbed of a core. The run refills the caches. The order rotates from round to round. Of an
    engine in a process of its own only that process's time counts (`GuestEngine.overhead`).

    Args:
        engines: whom to run.
        feeds: their input.
        rounds: how often each has its turn.
        warmup_rounds: rounds before those, which are not counted.
        pause: seconds before each turn.
        after_round: called after each round, warm-up rounds too.
        clock: seconds.

    Returns:
        [engines, rounds]: milliseconds.
    """
    times = np.empty((len(engines), rounds))
    for number in range(-warmup_rounds, rounds):
        for turn in range(len(engines)):
            which = (number + turn) % len(engines)
            time.sleep(pause)
            engines[which].run(feeds)
            start = clock()
            engines[which].run(feeds)
            spent = clock() - start - getattr(engines[which], "overhead", 0.0)
            if number >= 0:
                times[which, number] = 1e3 * spent
        after_round()
    return times


def summarise(
    names: Sequence[str], times: NDArray[np.float64], subject: str = "graphopt"
) -> tuple[dict[str, Timing], dict[str, float], dict[str, tuple[float, float]]]:
    """Timings, ratios and their spread, by name.

    Args:
        names: the engines.
        times: [engines, rounds], as `measure` gives them.
        subject: the engine whose time the ratios are of; it need not have run.

    Returns:
        Each engine's timing; the subject's median / each other's median; and the 10th and 90th
        percentile of that ratio within single rounds.
    """
    timings = {name: Timing.of(row) for name, row in zip(names, times, strict=True)}
    ratios: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    if subject in timings:
        own = times[list(names).index(subject)]
        for name, row in zip(names, times, strict=True):
            if name != subject:
                ratios[name] = timings[subject].median_ms / timings[name].median_ms
                low, high = np.percentile(own / row, (10, 90))
                spread[name] = (float(low), float(high))
    return timings, ratios, spread


@dataclass
class LineUp:
    """The engines that take part, and those that cannot."""

    engines: list[Engine] = field(default_factory=list)
    difference: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def line_up(
    openers: Mapping[str, Callable[[], Engine]],
    feeds: Mapping[str, Array],
    expected: Mapping[str, Array],
) -> LineUp:
    """Open every engine and compare its outputs with what is expected.

    Args:
        openers: what opens an engine, by name. An error of its own, or of its engine's first run,
            makes the engine unavailable.
        feeds: the input.
        expected: the right outputs.
    """
    result = LineUp()
    for name, opener in openers.items():
        try:
            engine = opener()
            answer = engine.run(feeds)
        except Exception as error:  # engines have exceptions of their own
            result.unavailable[name] = str(error) or type(error).__name__
            continue
        result.engines.append(engine)
        result.difference[name] = max(difference(answer[n], expected[n]) for n in expected)
    return result


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
        graph, model = Network(path=own, size=shapes).written(scratch / "model.onnx")
        feeds = usual_feeds(bundle, graph, shapes)
        subject.run(feeds)  # a competitor may fail; this one must not
        right = expected = OnnxRuntimeEngine(model, threads=threads).run(feeds)
        if rivals != own:
            _, model = Network(path=rivals, size=shapes).written(scratch / "original.onnx")
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

    Speed depends on it: far outside of its range, gates give numbers that CPUs are slow at. A
    network that is none of a pose gets noise about zero.
    """
    pose = bundle / "pose.json"
    if not pose.is_file() or len(graph.inputs) != 1:
        return dict(sample_feeds(graph, shapes)[-1])
    images = Calibration.synthetic(graph, read_pose_spec(pose))
    return next(images.feeds(images.fitting))


class Network(_Record):
    """The file that an engine runs."""

    path: Path
    size: Mapping[str, tuple[int, ...]]
    """What its inputs are fixed at."""

    def written(self, path: Path) -> tuple[gs.Graph, Path]:
        """The network at that size, and a file of it for engines to load."""
        graph = load_model(self.path, self.size)
        save_model(graph, path)
        return graph, path


def original_of(network: Path) -> Path | None:
    """The file that `graphopt optimize` made a network from, if it still lies beside it.

    Raises:
        InputError: the network cannot be read.
    """
    wanted = header_of(load_model(network)).metadata.get("graphopt.input_sha256")
    if wanted is None:
        return None
    beside = sorted(path for path in network.parent.glob("*.onnx") if path != network)
    first = network.with_name(network.name.replace(".opt.onnx", ".onnx"))
    beside.sort(key=lambda path: path != first)  # what it is called unless -o says otherwise
    return next((path for path in beside[:LOOKED_AT] if sha256_of(path) == wanted), None)


def _remark(own: Path, rivals: Path, off: float | None) -> str:
    """What to know of a network that was rewritten."""
    if rivals != own:
        by = "" if off is None else f", whose outputs differ from its by {off:.1e} of their range"
        return f"others run {rivals.name}; graphopt runs {own.name}{by}"
    if "graphopt.pipeline" in header_of(load_model(own)).metadata:
        return (
            f"every engine ran {own.name}, which graphopt optimize rewrote: others may be faster "
            "on the network that it was made from (--original A.onnx)"
        )
    return ""
