"""Who takes part in a contest: the bundle, other engines, and the networks that they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx_graphsurgeon as gs

from graphopt.bench import competitors
from graphopt.bench.competitors import Job, open_competitor
from graphopt.bench.memory_usage import peak_memory
from graphopt.bench.options import BenchOptions
from graphopt.bench.turns import LineUp, line_up
from graphopt.errors import GraphoptError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.arrays import Array
from graphopt.ir.files import is_unchanged
from graphopt.ir.network import Network
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.pose.head_choice import read_spec
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine
from graphopt.runtime.open import open_bundle
from graphopt.runtime.precision import bundle_precision
from graphopt.runtime.runner import BundleRunner
from graphopt.runtime.sample_inputs import sample_feeds
from graphopt.runtime.steps import is_quantised

LOOKED_AT = 20
"""Files beside a network, at most, that may be what it was made from."""

SUBJECT = "graphopt"
"""The name of the bundle's row."""


@dataclass(frozen=True)
class Entry:
    """A network as engines run it.

    Args:
        path: the file that users know.
        model: that network at the bundle's size, for engines to load.
        expected: onnxruntime's outputs.
        quantised: whether it rounds what it computes to steps.
    """

    path: Path
    model: Path
    expected: Mapping[str, Array]
    quantised: bool


@dataclass(frozen=True)
class Contest:
    """What engines are to run, and what is right.

    Args:
        bundle: the network that is measured.
        subject: its engine.
        arithmetic: what that computes in.
        own: the network that the bundle was compiled from.
        original: the one that other engines run.
        quantised: the one that those run, too, which compute in int8.
        shapes: the inputs' sizes.
        feeds: the input.
        threads: of every engine.
        best: whether each engine computes in what it is fastest in.
        scratch: a folder for files.
    """

    bundle: Path
    subject: BundleRunner
    arithmetic: str
    own: Entry
    original: Entry
    quantised: Entry | None
    shapes: dict[str, tuple[int, ...]]
    feeds: dict[str, Array]
    threads: int
    best: bool
    scratch: Path

    @classmethod
    def prepare(cls, bundle: Path, options: BenchOptions, threads: int, scratch: Path) -> Contest:
        """A contest of a bundle with the engines that `options` name.

        Raises:
            GraphoptError: a file cannot be read, or the bundle does not run.
        """
        subject = open_bundle(bundle, threads=threads)
        shapes = {n: tuple(d for d in dims if d) for n, dims in subject.inputs.items()}
        content = read_bundle(bundle)
        source = content.source()
        graph, model = NetworkFile(path=source, size=shapes).written(scratch / "model.onnx")
        feeds = usual_feeds(bundle, graph, shapes)
        subject.run(feeds)  # a competitor may fail; this one must not

        def entry(path: Path, graph: Network, model: Path) -> Entry:
            expected = OnnxRuntimeEngine(model, threads=threads).run(feeds)
            return Entry(path, model, expected, is_quantised(graph))

        def other(path: Path, name: str) -> Entry:
            return entry(path, *NetworkFile(path=path, size=shapes).written(scratch / name))

        own = original = entry(source, graph, model)
        before = options.original or original_of(source) or source
        if before != source:
            original = other(before, "original.onnx")
        quantised = None
        best = options.contest == "best"
        if best and options.quantized:
            quantised = other(options.quantized, "quantised.onnx")
        elif best and own.quantised and not original.quantised:
            quantised = own
        return cls(
            bundle,
            subject,
            bundle_precision(content),
            own,
            original,
            quantised,
            shapes,
            feeds,
            threads,
            best,
            scratch,
        )

    def off(self) -> float | None:
        """How far the two networks' outputs are apart; None where none are of one name."""
        own, other = self.own.expected, self.original.expected
        shared = [name for name in own if name in other]
        return max((difference(own[name], other[name]) for name in shared), default=None)

    def rows(self, names: Sequence[str]) -> dict[str, tuple[str, Entry]]:
        """Who runs what, by the name of the row: each engine, and again where it has int8."""
        rows = {}
        for name in dict.fromkeys(names):
            rows[name] = (name, self.original)
            if self.quantised and competitors.COMPETITORS[name].reads_quantised:
                rows[f"{name} int8"] = (name, self.quantised)
        return rows

    def job(self, entry: Entry, place: Path) -> Job:
        """What a competitor is asked to run, with a folder for its files."""
        outputs = {name: value.shape for name, value in entry.expected.items()}
        return Job(entry.model, self.shapes, outputs, self.threads, place, self.best)

    def line_up(self, names: Sequence[str]) -> LineUp:
        """The bundle's engine, and those competitors that can run; each is named like its row."""

        def opener(row: str, name: str, entry: Entry) -> Callable[[], Engine]:
            place = self.scratch / row
            place.mkdir()

            def opened() -> Engine:
                engine = open_competitor(name, self.job(entry, place))
                engine.name = row
                return engine

            return opened

        ready = line_up({SUBJECT: lambda: self.subject}, self.feeds, self.own.expected)
        for row, (name, entry) in self.rows(names).items():
            others = line_up({row: opener(row, name, entry)}, self.feeds, entry.expected)
            ready.engines += others.engines
            ready.difference |= others.difference
            ready.unavailable |= others.unavailable
        return ready

    def memory(self, engines: Sequence[Engine], progress: Callable[[str], None]) -> dict[str, int]:
        """The peak memory of each engine, by name, where it can be measured."""
        memory = {}
        for engine in engines:
            progress(f"memory of {engine.name}")
            name, entry = self._row(engine)
            job = self.job(entry, self.scratch)
            with suppress(GraphoptError):  # a measurement less, beside those that there are
                memory[engine.name] = peak_memory(name, job, self.bundle, self.feeds)
        return memory

    def files(self, engines: Sequence[Engine]) -> dict[str, str]:
        """Which network each engine ran."""
        return {engine.name: str(self._row(engine)[1].path) for engine in engines}

    def precision(self, engines: Sequence[Engine]) -> dict[str, str]:
        """What each engine computed in."""
        told = {}
        for engine in engines:
            rest = getattr(engine, "precision", "float32")
            if engine.name == SUBJECT:
                rest = self.arithmetic
            elif self._row(engine)[1].quantised:
                rest = "int8" if rest == "float32" else f"int8, {rest}"
            told[engine.name] = rest
        return told

    def _row(self, engine: Engine) -> tuple[str, Entry]:
        if engine.name == SUBJECT:
            return SUBJECT, self.own
        return self.rows(list(competitors.COMPETITORS))[engine.name]

    def notes(self, names: Sequence[str]) -> tuple[str, ...]:
        """What is left out of the best that engines have, a sentence each."""
        if not self.best:
            return ()
        known = {name: competitors.COMPETITORS[name] for name in dict.fromkeys(names)}
        notes = [engine.left_out for engine in known.values() if engine.left_out]
        able = [name for name, engine in known.items() if engine.reads_quantised]
        if able and not self.quantised and not self.original.quantised:
            notes.append(
                f"int8 of {' and '.join(able)} is left out: no quantised file (--quantized Q.onnx)."
            )
        return tuple(notes)


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
    images = Calibration.synthetic(graph, read_spec(pose))
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
