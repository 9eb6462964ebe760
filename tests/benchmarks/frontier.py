"""Speed against AP, photo in and poses out: what `graphopt search` made, and other engines' best.

    graphopt search NETWORK.onnx -o FOLDER --calib photos/ --images val2017/
        --annotations person_keypoints_val2017.json
    python tests/benchmarks/frontier.py FOLDER NETWORK.onnx --images val2017/
        --annotations person_keypoints_val2017.json [--quantized QDQ.onnx] [--photos DIR]
        [--rivals openvino] [--threads 2] [--rounds 5] [--limit N] [-o frontier.svg] [--json F.json]

Every bundle of the search, at every height, and the other engines with the network as it was at the
same heights, and with the quantised one of `--quantized` (NNCF's, say; at its own size alone if it
takes no other). All take turns, photo by
photo, in one run, from a photo's pixels to its people; each other engine with graphopt's decoder in
NumPy and with tf-pose's compiled one where that is installed (photo_to_poses.py says how). AP is of
what was timed: the bundle itself, the engine itself with that decoder.

It prints a Markdown table and draws the best of smaller photos alone, of eight bits, of pruned and
shortened networks, of everything together, and of each other engine. APs are kept in the JSON file
as they come, and are not measured again. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from engines import ROOT
from photo_to_poses import COMPILED, Contestant, Rivals, each, race

from graphopt.display.plots import COLORS, Axis, Plot
from graphopt.errors import GraphoptError
from graphopt.ir.files import replacing
from graphopt.pose.evaluate import evaluate
from graphopt.pose.open import open_engine
from graphopt.search.frontier import beaten_by

TOGETHER = "graphopt, everything"
SERIES = {"exact": "graphopt, smaller photos alone", "exact-quantize": "graphopt, int8"}
"""What bundles of a search are, by the name of their network."""
PRUNED = ("graphopt, pruned or shortened", "graphopt, pruned or shortened, int8")

HEADER = ("what", "network, height, precision", "ms a photo", "times", "AP", "best")


@dataclass(frozen=True)
class Entry:
    """A contestant with what is known of it."""

    series: str
    name: str
    contestant: Contestant


@dataclass(frozen=True)
class Result:
    """What was measured."""

    series: str
    name: str
    ms: float
    """Median over photos and rounds."""
    ap: float

    @property
    def quality(self) -> float:
        """What results are compared by."""
        return self.ap


def bundles(folder: Path, threads: int) -> Iterator[Entry]:
    """What a search compiled: files are called NETWORK-HEIGHT-PRECISION.graphopt."""
    for path in sorted(folder.glob("*-*-*.graphopt")):
        network, height, precision = path.stem.rsplit("-", 2)
        if not height.isdecimal():
            continue
        engine, spec = open_engine(path, threads=threads)
        (contestant,) = each(engine, spec, path, {COMPILED: None})
        series = SERIES.get(network, PRUNED[precision == "int8"])
        yield Entry(series, f"{network} {height} {precision}", contestant)


def others(
    ours: Sequence[Entry],
    networks: Sequence[Path],
    names: Sequence[str],
    threads: int,
    scratch: Path,
) -> Iterator[Entry]:
    """Other engines, at every size of our bundles."""
    sizes = {
        tuple(entry.contestant.engine.inputs.items()): entry.contestant.engine.inputs
        for entry in ours
    }
    for shapes in sizes.values():
        fixed = {name: tuple(d for d in shape if d) for name, shape in shapes.items()}
        for number, network in enumerate(networks):
            try:
                found, _ = Rivals(fixed, threads, True, scratch).of(network, names)
            except GraphoptError as error:  # a file of one size has no other
                print(f"{network.name}: {error.message}", file=sys.stderr)
                continue
            for one in found:
                kind = getattr(one.engine, "precision", "float32") if not number else "int8"
                (shape,) = fixed.values()
                name = f"{one.engine.name} {shape[-2]} {kind}, {one.decoder}"
                yield Entry(f"{one.engine.name}, {kind}", name, one)


def accuracies(
    entries: Sequence[Entry], truth: tuple[Path, Path], limit: int | None, kept: Path | None
) -> dict[str, float]:
    """AP by name; those in a file are taken from there, and it is written after each."""
    known: dict[str, float] = {}
    if kept and kept.exists():
        known = json.loads(kept.read_text())["ap"]
    for entry in entries:
        if entry.name not in known:
            print(f"AP of {entry.name}", file=sys.stderr)
            known[entry.name] = evaluate(entry.contestant, *truth, limit=limit).AP
            write(kept, {"ap": known})
    return known


def write(path: Path | None, content: Mapping[str, object]) -> None:
    """Write a JSON file, where one is asked for."""
    if path:
        with replacing(path) as fresh:
            fresh.write_text(json.dumps(content, indent=1) + "\n")


def best(results: Sequence[Result]) -> list[Result]:
    """Those that none of the others beats in both, the slowest first."""
    slowest_first = sorted(results, key=lambda r: -r.ms)
    return [one for one in slowest_first if beaten_by(one, results) is None]


def table(results: Sequence[Result]) -> str:
    """As Markdown, the fastest last, everything beside the slowest of our exact networks."""
    whole = max(r.ms for r in results if r.series == SERIES["exact"])
    lines = [
        "| what | network, height, precision | ms a photo | times | AP | best |",
        "|---" * 6 + "|",
    ]
    leading = best(results)
    for one in sorted(results, key=lambda r: -r.ms):
        cells = (one.series, one.name, f"{one.ms:.1f}", f"{whole / one.ms:.2f}", f"{one.ap:.4f}")
        lines.append(f"| {' | '.join((*cells, 'yes' if one in leading else ''))} |")
    return "\n".join(lines)


def drawing(results: Sequence[Result]) -> str:
    """A line a series: AP over milliseconds, as SVG."""
    steps = np.linspace(0, 1, 5)
    low, high = min(r.ap for r in results), max(r.ap for r in results)
    plot = Plot(
        Axis("ms from pixels to people", list(steps * max(r.ms for r in results)), "{:.0f}".format),
        Axis("AP", list(low + steps * (high - low)), "{:.2f}".format),
    )
    series = {name: [r for r in results if r.series == name] for name in series_of(results)}
    series[TOGETHER] = [r for r in results if r.series.startswith("graphopt")]
    for (name, members), color in zip(series.items(), cycle(COLORS), strict=False):
        plot.line([(r.ms, r.ap) for r in best(members)], color, name)
    return str(plot)


def series_of(results: Sequence[Result]) -> list[str]:
    """Their names, each once, in order."""
    return list(dict.fromkeys(r.series for r in results))


def main(given: argparse.Namespace) -> None:
    """Print the table, and draw."""
    networks = [given.network, *([given.quantized] if given.quantized else [])]
    with TemporaryDirectory() as scratch:
        entries = list(bundles(given.folder, given.threads))
        if not entries:
            sys.exit(f"{given.folder} holds no bundles of a search")
        names = [name for name in given.rivals.split(",") if name]
        if names:
            entries += list(others(entries, networks, names, given.threads, Path(scratch)))
        times = race([entry.contestant for entry in entries], given.photos, given.rounds)
        ap = accuracies(entries, (given.images, given.annotations), given.limit, given.json)
    results = [
        Result(entry.series, entry.name, float(np.median(spent)), ap[entry.name])
        for entry, spent in zip(entries, times, strict=True)
    ]
    write(given.json, {"ap": ap, "ms": {r.name: round(r.ms, 2) for r in results}})
    print(table(results))
    if given.output:
        with replacing(given.output) as fresh:
            fresh.write_text(drawing(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    assets = Path(os.environ.get("GRAPHOPT_ASSETS", ROOT.parent / "shared" / "assets"))
    coco = assets / "coco"
    truth = coco / "person_keypoints_val_dev.json"
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("network", type=Path, metavar="NETWORK.onnx")
    parser.add_argument("--quantized", type=Path, metavar="QDQ.onnx")
    parser.add_argument("--photos", type=Path, default=assets / "photos", metavar="DIR")
    parser.add_argument("--images", type=Path, default=coco / "val_dev", metavar="DIR")
    parser.add_argument("--annotations", type=Path, default=truth, metavar="F.json")
    parser.add_argument("--rivals", default="openvino", help="engines: onnxruntime,openvino,ncnn")
    parser.add_argument("--limit", type=int, help="AP on so many photos only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="of each photo")
    parser.add_argument("-o", "--output", type=Path, metavar="F.svg")
    parser.add_argument("--json", type=Path, metavar="F.json")
    main(parser.parse_args())
