"""What pruning costs and gives: accuracy, speed and size of a network, dense to four times smaller.

    python tests/benchmarks/pruning_curve.py NETWORK.onnx --calib photos/ --images val2017/
        --annotations person_keypoints_val2017.json [--compression 1.25,1.5,1.8,2.15,3,4]
        [--speedup-too 1.5,2 --device epyc-znver4-1t] [--distill-steps N] [--threads 2]
        [--limit N] [-o curve.svg] [--json curve.json]

The layers' sensitivity is measured once. Then, a target at a time: `graphopt optimize` prunes and
repairs the network, `graphopt compile` makes a bundle for the cpu, `graphopt pack` a file with half
precision values. MACs and parameters are those in blocks that are kept. AP is the ONNX file's, run
by onnxruntime; the speed-up is the dense bundle's time / the pruned one's, both in turns in one
process, the median of the rounds and, in brackets, the 10th and 90th percentile.

It prints a Markdown table and draws the AP that is kept over the speed-up. A target takes many
minutes: each is written to the JSON file when it is done, and what is there is not measured again;
one that was interrupted goes on. Networks stay beside the file, in a folder of its name; remove
both to begin anew. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from engines import graphopt

from graphopt.analysis.cost import cost_of
from graphopt.bench.turns import measure
from graphopt.display.numbers import human
from graphopt.display.plots import COLORS, Axis, Plot
from graphopt.ir.files import replacing, sha256_of
from graphopt.ir.onnx_io import load_model
from graphopt.ir.records import Record
from graphopt.pose.estimate import Estimator
from graphopt.pose.evaluate import evaluate
from graphopt.pose.open import open_engine
from graphopt.runtime.open import open_bundle
from graphopt.runtime.sample_inputs import sample_feeds

DENSE = "dense"
TITLES = {
    "compression": ("x fewer MACs", "target: times fewer MACs"),
    "speedup": ("x faster, predicted", "target: times faster, as predicted"),
}
"""What is asked of `graphopt optimize`: in the table after a target's number, and in the legend."""


@dataclass(frozen=True)
class Settings(Record):
    """What results depend on besides the target."""

    network: str
    """SHA-256 of the file."""
    calib: str
    calib_photos: int
    images: str
    limit: int | None
    device: str | None
    preset: str
    distill_steps: int
    size: str
    threads: int


@dataclass(frozen=True)
class Point(Record):
    """One network, measured."""

    macs: int
    """In blocks that are kept, as are `params`."""
    params: int
    ap: float
    speedup: tuple[float, float, float]
    """Dense time / its time: the median of rounds, the 10th and the 90th percentile."""
    packed: float
    """The packed file's bytes / those of the dense network's file."""


@dataclass(frozen=True)
class Curve(Record):
    """All that has been measured, by what was asked for: `dense`, `compression 1.8` …"""

    settings: Settings
    points: dict[str, Point]

    @classmethod
    def go_on(cls, path: Path, settings: Settings) -> Curve:
        """What a file holds, or nothing yet; results of other settings are refused."""
        if not path.exists():
            return cls(settings=settings, points={})
        found = cls.from_json(path.read_text())
        if found.settings != settings:
            sys.exit(f"{path} holds results of other settings; name another file with --json")
        return found


@dataclass(frozen=True)
class Bench:
    """Where networks are made and measured."""

    network: Path
    settings: Settings
    calib: Path
    images: Path
    annotations: Path
    rounds: int
    folder: Path
    """Keeps what takes long to make."""
    scratch: Path

    def bundle(self, network: Path) -> Path:
        """A network compiled for this machine's CPU."""
        bundle = self.scratch / network.stem
        shape = f"1,3,{self.settings.size.replace('x', ',')}"
        given = ("--target", "cpu", "--precision", "float32", "--input-shape", shape)
        graphopt("compile", network, "-o", bundle, *given)
        return bundle

    @cached_property
    def dense(self) -> Path:
        """The bundle of the network as it is."""
        return self.bundle(self.network)

    def pruned(self, option: str, target: float) -> Path:
        """The network, pruned to a target, or as it was when that was done before."""
        sensitivity = self.folder / "sensitivity.json"
        network = self.folder / f"{option}-{target:g}.onnx"
        photos = ("--calib", self.calib)
        if not sensitivity.exists():
            graphopt("sensitivity", self.network, *photos, "--json", sensitivity)
        if not network.exists():
            steps = self.settings.distill_steps
            graphopt(
                *("optimize", self.network, "-o", network, "--preset", self.settings.preset),
                *(f"--{option}", target),
                *(("--device", self.settings.device) if self.settings.device else ()),
                *("--sensitivity", sensitivity, *photos),
                *("--calib-photos", self.settings.calib_photos),
                *(("--passes", f"distill{{steps={steps}}}") if steps else ()),
            )
        return network

    def speedup(self, network: Path) -> tuple[float, float, float]:
        """How many times faster a network is: over rounds the median, 10th and 90th percentile."""
        if network == self.network:
            return 1.0, 1.0, 1.0
        bundles = (self.dense, self.bundle(network))
        runners = [open_bundle(bundle, threads=self.settings.threads) for bundle in bundles]
        shapes = {name: tuple(d for d in s if d) for name, s in runners[0].inputs.items()}
        feeds = sample_feeds(load_model(self.network, shapes), shapes)[0]
        dense, pruned = measure(runners, feeds, rounds=self.rounds, warmup_rounds=3)
        low, middle, high = np.percentile(dense / pruned, (10, 50, 90))
        return float(middle), float(low), float(high)

    def measured(self, network: Path) -> Point:
        """A network's accuracy, speed and size."""
        shape = (1, 3, *map(int, self.settings.size.split("x")))
        cost = cost_of(load_model(network, {"": shape}))
        speedup = self.speedup(network)
        packed = self.scratch / "packed.onnx"
        graphopt("pack", network, "-o", packed, "--fp16")
        engine, spec = open_engine(network, engine="onnxruntime", threads=self.settings.threads)
        estimator = Estimator(engine, spec)
        scores = evaluate(estimator, self.images, self.annotations, limit=self.settings.limit)
        return Point(
            macs=cost.kept_macs,
            params=cost.kept_params,
            ap=scores.AP,
            speedup=speedup,
            packed=packed.stat().st_size / self.network.stat().st_size,
        )


HEADER = ("target", "MACs", "parameters", "AP", "AP kept", "speed-up", "packed, float16")


def row(key: str, point: Point, dense: Point) -> Iterator[str]:
    """A network's line of the table, cell by cell."""
    option, _, target = key.partition(" ")
    yield f"{target}{TITLES[option][0]}" if target else option
    yield f"{human(point.macs)} ({dense.macs / point.macs:.2f}x fewer)"
    yield human(point.params)
    yield f"{point.ap:.3f}"
    yield _share(point, dense)
    middle, low, high = point.speedup
    yield f"{middle:.2f} ({low:.2f} … {high:.2f})"
    yield f"{point.packed:.0%}"


def _share(point: Point, dense: Point) -> str:
    return f"{point.ap / dense.ap:.0%}" if dense.ap else "-"


def drawing(points: Mapping[str, Point]) -> str:
    """The AP that is kept over the speed-up, as SVG: a line for each kind of target."""
    dense = points[DENSE]
    fastest = max(point.speedup[0] for point in points.values())
    # Halves from 1 on, at least one of them, past the fastest.
    last = max(1, int(np.ceil(2 * (fastest - 1))))
    plot = Plot(
        Axis("speed-up", [1 + step / 2 for step in range(last + 1)], "{:g}x".format),
        Axis("AP kept", (0.0, 0.25, 0.5, 0.75, 1.0), "{:.0%}".format),
    )

    def place(point: Point) -> tuple[float, float]:
        return point.speedup[0], point.ap / dense.ap if dense.ap else 0.0

    for (option, (_, title)), color in zip(TITLES.items(), cycle(COLORS)):
        line = {k.split(" ")[1]: p for k, p in points.items() if k.startswith(f"{option} ")}
        if line:
            rising = sorted(line.items(), key=lambda entry: float(entry[0]))
            plot.line([place(dense), *(place(point) for _, point in rising)], color, title)
        for target, point in line.items():
            plot.dot(place(point), f"{target}x", color)
    plot.dot(place(dense), DENSE, "black")
    return str(plot)


def main(bench: Bench, targets: Sequence[tuple[str, float]], plot: Path, json: Path) -> None:
    """Print the table, a row as soon as it is measured; keep JSON and drawing up to date."""
    curve = Curve.go_on(json, bench.settings)
    bench.folder.mkdir(parents=True, exist_ok=True)
    print(f"| {' | '.join(HEADER)} |")
    print("|---" * len(HEADER) + "|", flush=True)
    for option, target in [(DENSE, 1.0), *targets]:
        key = DENSE if option == DENSE else f"{option} {target:g}"
        if key not in curve.points:
            print(f"{key} …", file=sys.stderr, flush=True)
            try:
                network = bench.network if option == DENSE else bench.pruned(option, target)
                curve.points[key] = bench.measured(network)
            except SystemExit as failed:  # a target out of reach; the next may not be
                print(f"{key}: {failed}", file=sys.stderr)
                continue
            texts = {json: curve.to_json(indent=1) + "\n", plot: drawing(curve.points)}
            for path, text in texts.items():
                with replacing(path) as fresh:
                    fresh.write_text(text)
        line = row(key, curve.points[key], curve.points[DENSE])
        print(f"| {' | '.join(line)} |", flush=True)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",") if number]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", type=Path, metavar="NETWORK.onnx")
    parser.add_argument("--calib", type=Path, required=True, metavar="DIR")
    parser.add_argument("--calib-photos", type=int, default=1000, help="see graphopt optimize")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--annotations", type=Path, required=True, metavar="F.json")
    parser.add_argument("--limit", type=int, help="AP on so many photos only")
    parser.add_argument("--compression", type=_numbers, default=[1.25, 1.5, 1.8, 2.15, 3, 4])
    parser.add_argument("--speedup-too", type=_numbers, default=[], help="see graphopt optimize")
    parser.add_argument("--device", help="see graphopt optimize")
    parser.add_argument("--preset", default="mobile", help="what is done before pruning")
    parser.add_argument("--distill-steps", type=int, default=0)
    parser.add_argument("--size", default="368x656", help="of the bundles' input")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("-o", "--plot", type=Path, default=Path("curve.svg"), metavar="F.svg")
    parser.add_argument("--json", type=Path, default=Path("curve.json"), metavar="F.json")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        main(
            Bench(
                network=given.network,
                settings=Settings(
                    network=sha256_of(given.network),
                    calib=str(given.calib.resolve()),
                    calib_photos=given.calib_photos,
                    images=str(given.images.resolve()),
                    limit=given.limit,
                    device=given.device,
                    preset=given.preset,
                    distill_steps=given.distill_steps,
                    size=given.size,
                    threads=given.threads,
                ),
                calib=given.calib,
                images=given.images,
                annotations=given.annotations,
                rounds=given.rounds,
                folder=given.json.with_suffix(""),
                scratch=Path(scratch),
            ),
            [("compression", target) for target in given.compression]
            + [("speedup", target) for target in given.speedup_too],
            given.plot,
            given.json,
        )
