"""Does a bundle take as long everywhere? And does it with inputs that no photo gives?

    python tests/benchmarks/threads.py BUNDLE PHOTO [--threads 1,2] [--rounds 10]

For each number of threads the network is timed by `graphopt bench --photo`, by `graphopt run` on
several copies of the photo, and in Python; each round has all three. The last two time the way from
photo to people, so it is bench's sum of these stages that they are compared with. Then the network
alone, in turns with onnxruntime, with photo-like inputs and with pixels of 0..255, which leave
denormal numbers behind gates. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from engines import graphopt

from graphopt.bench.contest import usual_feeds
from graphopt.bench.turns import measure
from graphopt.ir.arrays import Array
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.pose.estimate import Estimator
from graphopt.pose.images import read_photo
from graphopt.pose.open import open_engine
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.open import open_bundle

AGREE = 0.1
"""How far times may lie apart, relative to bench's."""
COPIES = 8
"""Photos that `graphopt run` sees in a round."""


def by_bench(bundle: Path, photo: Path, threads: int, scratch: Path) -> float:
    """Milliseconds from photo to people, as `graphopt bench` has it."""
    found = scratch / "bench.json"
    options = ("--threads", threads, "--photo", photo, "--num-runs", 5, "--warmup-runs", 1)
    graphopt("bench", bundle, *options, "--result-json", found)
    ms = json.loads(found.read_text())["budget"]["ms"]
    return float(sum(value for stage, value in ms.items() if stage != "drawing"))


def by_run(bundle: Path, photo: Path, threads: int) -> float:
    """The same, as `graphopt run` prints it."""
    program = "from graphopt.cli import main; main()"
    photos = [str(photo)] * COPIES
    command = [
        sys.executable,
        "-c",
        program,
        "run",
        str(bundle),
        *photos,
        "--threads",
        str(threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return median([float(ms) for ms in re.findall(r", (\d+) ms", done.stdout)][1:])


def in_python(bundle: Path, photo: Path, threads: int) -> float:
    """The same, in this process."""
    estimator, picture = Estimator(*open_engine(bundle, threads=threads)), read_photo(photo)
    times = []
    for _ in range(COPIES):
        start = time.perf_counter()
        estimator(picture)
        times.append(1e3 * (time.perf_counter() - start))
    return median(times[1:])


def agreement(bundle: Path, photo: Path, threads: int, rounds: int) -> bool:
    """Print the three ways' times; whether they agree."""
    with TemporaryDirectory() as scratch:
        table = np.array(
            [
                (
                    by_bench(bundle, photo, threads, Path(scratch)),
                    by_run(bundle, photo, threads),
                    in_python(bundle, photo, threads),
                )
                for _ in range(rounds)
            ]
        )
    times, ratios = np.median(table, axis=0), np.median(table / table[:, :1], axis=0)
    print(
        f"{threads} threads, ms: "
        + ", ".join(
            f"{way} {ms:.1f} ({ratio:.2f})"
            for way, ms, ratio in zip(("bench", "run", "Python"), times, ratios, strict=True)
        )
    )
    agree = bool((abs(ratios - 1) <= AGREE).all())
    print(f"they {'agree' if agree else 'DO NOT AGREE'} within {AGREE:.0%}")
    return agree


def large_inputs(bundle: Path, threads: int, rounds: int) -> None:
    """Print the network's time, and onnxruntime's, with usual and with large inputs."""
    runner = open_bundle(bundle, threads=threads)
    shapes = {name: tuple(d for d in shape if d) for name, shape in runner.inputs.items()}
    graph = load_model(read_bundle(bundle).source(), shapes)
    usual = usual_feeds(bundle, graph, shapes)
    large: dict[str, Array] = {
        name: np.random.default_rng(0).uniform(0, 255, value.shape).astype(value.dtype)
        for name, value in usual.items()
    }
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        save_model(graph, path)
        rival = OnnxRuntimeEngine(path, threads=threads)
        for name, feeds in {"photo-like": usual, "0..255": large}.items():
            times = measure([runner, rival], feeds, rounds=rounds, warmup_rounds=2)
            own, other = np.median(times, axis=1)
            ratio = np.median(times[0] / times[1])
            print(f"{name} inputs: graphopt {own:.1f} ms, onnxruntime {other:.1f} ({ratio:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    good = True
    for count in map(int, given.threads.split(",")):
        good &= agreement(given.bundle, given.photo, count, given.rounds)
        large_inputs(given.bundle, count, 2 * given.rounds)
    sys.exit(not good)
