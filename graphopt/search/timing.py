"""How long candidates take: measured here, or predicted for a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from graphopt.analysis.latency.device import Device, load_device
from graphopt.analysis.latency.predict import predict, total_ms
from graphopt.bench.turns import measure
from graphopt.ir.arrays import Array, Shape
from graphopt.ir.onnx_io import load_model
from graphopt.pose.estimate import Estimator, FindsPeople
from graphopt.pose.images import read_photo
from graphopt.pose.open import open_engine
from graphopt.search.candidates import Candidate, Rewriting
from graphopt.search.workshop import Workshop

ROUNDS = 15
"""How often each candidate has its turn."""
PHOTOS = 4
"""Photos that it looks at in one."""
CPU_PROFILE = "epyc-znver4-1t"
"""Says how candidates of one precision compare before they are measured here."""


@dataclass
class Chain:
    """From pixels to people, as an engine that `bench.turns` measures."""

    estimator: FindsPeople
    photos: Sequence[Image.Image]
    name: str = "graphopt"
    inputs: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Sequence[str] = ()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002
        """Find the people in all photos."""
        for photo in self.photos:
            self.estimator(photo)
        return {}


def opened(bundle: Path, workshop: Workshop) -> Estimator:
    """A bundle, ready for photos."""
    engine, spec = open_engine(bundle, threads=workshop.options.threads or 0)
    return Estimator(engine, spec)


def measured(
    bundles: Mapping[Candidate, Path],
    photos: Sequence[Path],
    workshop: Workshop,
    progress: Callable[[str], None],
    rounds: int = ROUNDS,
) -> dict[Candidate, float]:
    """Milliseconds from a photo's pixels to its people, all candidates in turns in one run.

    Args:
        bundles: those of the candidates.
        photos: the first `PHOTOS` of them are looked at.
        workshop: what opens them.
        progress: told which round of how many it is.
        rounds: how often each has its turn.
    """
    pictures = [read_photo(path) for path in photos[:PHOTOS]]
    chains = [Chain(opened(bundle, workshop), pictures) for bundle in bundles.values()]
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        progress(f"timing: round {done} of {rounds + 2}")

    times = measure(chains, {}, rounds=rounds, warmup_rounds=2, after_round=told)
    medians = np.median(times, axis=1) / len(pictures)
    return {candidate: float(ms) for candidate, ms in zip(bundles, medians, strict=True)}


def predicted(candidate: Candidate, network: Path, workshop: Workshop, device: Device) -> float:
    """Milliseconds that a network is predicted to take on a device, at a candidate's height.

    Raises:
        InputError: the size of a layer is not known.
    """
    shape = tuple(extent or 1 for extent in workshop.subject.shape(candidate.height))
    sizes = {workshop.subject.input: shape}
    profile = device if candidate.int8 else device.computing_in(candidate.precision)
    assert profile is not None  # only precisions that it knows are tried
    return total_ms(predict(load_model(network, sizes), profile, sizes))


def expected(
    candidates: Sequence[Candidate],
    reference: Mapping[str, float],
    workshop: Workshop,
    progress: Callable[[str], None],
) -> dict[Candidate, float]:
    """About how long candidates will take here, to choose those that are compiled and timed.

    What was measured of the original in a candidate's precision, times what its multiply-adds, its
    traffic and its launches are predicted to save on a CPU.

    Args:
        candidates: those to tell of; float networks stand in for those in eight bits.
        reference: milliseconds of the original, by precision.
        workshop: what makes them.
        progress: told what is being made.
    """
    device = load_device(CPU_PROFILE)
    usual = workshop.subject.heights[0]

    @cache
    def alone(height: int, rewriting: Rewriting) -> float:
        twin = Candidate(height, "float32", rewriting)
        network = workshop.network(twin, progress)
        if isinstance(network, str):
            network = workshop.subject.path
        return predicted(twin, network, workshop, device)

    whole = alone(usual, Rewriting())
    return {
        one: reference[one.precision] * alone(one.height, one.rewriting) / whole
        for one in candidates
    }
