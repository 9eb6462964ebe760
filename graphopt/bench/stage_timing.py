"""Where the time goes between a photo and the picture with its people."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from graphopt.errors import InputError
from graphopt.ir.records import Record
from graphopt.pose.bundle_estimator import BundledEstimator
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.draw import draw
from graphopt.pose.head_choice import read_spec
from graphopt.runtime.runner import BundleRunner

STAGES = ("pre-processing", "network", "decoding", "drawing")


@dataclass(frozen=True)
class Budget(Record):
    """Median milliseconds of each of `STAGES` for one photo, on the threads of the measurement."""

    photo: str
    size: tuple[int, int]
    """The photo's width and height."""
    people: int
    ms: dict[str, float]


def measure_budget(runner: BundleRunner, path: Path, photo: Image.Image, rounds: int) -> Budget:
    """Time the way of a photo through a pose bundle, stage by stage.

    Args:
        runner: the bundle; what it has no kernels for is done as `BundledEstimator` says.
        path: the photo's name, for the report.
        photo: its RGB pixels.
        rounds: how often.

    Raises:
        InputError: the bundle is not that of a pose network.
    """
    if "pose.json" not in runner.bundle.manifest.files:
        raise InputError("--photo: the bundle is not that of a pose network")
    spec = read_spec(runner.bundle.path / "pose.json")
    estimator = BundledEstimator(runner, spec, DecodeOptions())
    people = 0

    def once() -> Iterator[float]:
        nonlocal people
        yield time.perf_counter()
        placement = estimator.prepare(photo)
        runner.wait()
        yield time.perf_counter()
        estimator.start()
        runner.wait()
        yield time.perf_counter()
        found = estimator.people(placement).people
        people = len(found)
        yield time.perf_counter()
        draw(photo, found, spec.skeleton)
        yield time.perf_counter()

    seconds = np.array([np.diff(list(once())) for _ in range(rounds + 1)])[1:]
    milliseconds = 1e3 * np.median(seconds, axis=0)
    ms = dict(zip(STAGES, milliseconds.tolist(), strict=True))
    return Budget(photo=str(path), size=photo.size, people=people, ms=ms)
