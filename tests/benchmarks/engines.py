"""graphopt beside other engines, over several networks, sizes and numbers of threads, as Markdown.

    python tests/benchmarks/engines.py [NETWORK.onnx[@HEIGHTxWIDTH] …]
        [--target cpu] [--threads 1,2] [--rounds 20]
        [--contest float32] [--images photos/]

Each network is compiled for the target once a size; then `graphopt bench`, in a process of its own
for each number of threads, lets the engines take turns. Ratios are graphopt's time / the other's,
the median of all rounds and, in brackets, the 10th and 90th percentile within rounds; an engine
whose outputs are wrong is marked so, and is not among those of which one is the fastest. Each
engine is in the precision in which it is fastest, which stands beside its ratio (`--contest
float32`: all in that); those with int8 take it where the network is quantised and has its original
beside it. In less than float32 it is wrong where its people are unlike in the photos of --images.
Without
networks it is the trained ones of GRAPHOPT_ASSETS. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from graphopt.bench.bench_report import BenchReport

ROOT = Path(__file__).resolve().parents[2]
TRAINED = (
    "lwop_ov0001_i8deq_dynHW.onnx@368x656",
    "lwop_ov0001_i8deq_dynHW.onnx@256x456",
    "tfpose_mnv2small_frozenbn_dynHW.onnx@368x656",
    "efficientpose_I_256.onnx",
    "cpm_mv2_192_7x7dw.onnx",
)
RIVALS = {"cpu": ("onnxruntime", "openvino", "ncnn", "mnn"), "opencl": ("tinygrad",)}


def graphopt(*arguments: object) -> None:
    """Run a command; its own words are shown only if it fails."""
    program = "from graphopt.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"graphopt {' '.join(map(str, arguments))}:\n{done.stderr}")


def row(report: BenchReport, rivals: Sequence[str]) -> Iterator[str]:
    """What one measurement has to say, cell by cell, after network and size."""
    own = report.engines["graphopt"]
    yield str(report.threads)
    yield f"{own.median_ms:.1f}"
    right = [name for name in report.ratios if not report.wrong(name)]
    for rival in rivals:
        rows = [name for name in (rival, f"{rival} int8") if name in report.ratios]
        # Its best: right rather than wrong, and then the fastest.
        name = max(rows, key=lambda row: (row in right, report.ratios[row]), default=None)
        if name:
            low, high = report.ratio_p10_p90[name]
            kind = report.precision.get(name, "float32")
            told = "" if kind == "float32" else f" {kind}"
            wrong = "" if name in right else f" wrong by {report.difference[name]:.0e}"
            yield f"{report.ratios[name]:.2f} ({low:.2f} … {high:.2f}){told}{wrong}"
        else:
            yield "-"
    yield f"{max((report.ratios[name] for name in right), default=float('nan')):.2f}"
    yield f"{report.difference['graphopt']:.0e}"
    held = (report.memory.get(name) for name in ("graphopt", "onnxruntime"))
    yield " / ".join("-" if size is None else f"{size / 1e6:.0f}" for size in held)
    yield f"{report.bundle_bytes / 1e6:.1f}"


def main(
    networks: Sequence[str],
    target: str,
    threads: Sequence[int],
    rounds: int,
    contest: Sequence[object],
) -> None:
    """Print the table, a row as soon as it is measured."""
    rivals = RIVALS[target]
    columns = ["network", "size", "threads", "ms", *(f"/ {name}" for name in rivals)]
    columns += ["/ fastest", "difference", "MB held / onnxruntime's", "bundle MB", "compiled in s"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|", flush=True)
    with TemporaryDirectory() as folder:
        bundle, result = Path(folder) / "bundle", Path(folder) / "result.json"
        for network in networks:
            file, _, size = network.partition("@")
            shape = ["--input-shape", f"1,3,{size.replace('x', ',')}"] if size else []
            start = time.perf_counter()
            held = ("--precision", "float32") if "float32" in contest else ()
            graphopt("compile", file, "-o", bundle, "--target", target, *shape, *held)
            compiled = f"{time.perf_counter() - start:.0f}"
            for count in threads:
                options = ("--threads", count, "--num-runs", rounds, "--json", result)
                graphopt("bench", bundle, "--vs", ",".join(rivals), *options, *contest)
                report = BenchReport.from_json(result.read_text())
                (extents,) = report.input.values()
                first = (Path(file).stem, "x".join(map(str, extents[2:])))
                print(f"| {' | '.join((*first, *row(report, rivals), compiled))} |", flush=True)
                for name, reason in report.unavailable.items():
                    print(f"{name}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK.onnx[@HEIGHTxWIDTH]")
    parser.add_argument("--target", choices=RIVALS, default="cpu")
    parser.add_argument("--threads", default="1,2", help="numbers of threads: 1,2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--contest", choices=("best", "float32"), default="best")
    parser.add_argument("--images", type=Path, help="photos, for lower precision")
    given = parser.parse_args()
    folder = Path(os.environ.get("GRAPHOPT_ASSETS", ROOT.parent / "shared" / "assets")) / "models"
    main(
        given.networks or [str(folder / name) for name in TRAINED],
        given.target,
        [int(count) for count in given.threads.split(",")],
        given.rounds,
        ("--contest", given.contest, *(("--images", given.images) if given.images else ())),
    )
