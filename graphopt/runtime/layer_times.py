"""How long each kernel of a bundle takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from graphopt.ir.arrays import Array
from graphopt.runtime.open import open_bundle
from graphopt.runtime.runner import LayerTime


def layer_times(
    bundle: Path,
    *,
    threads: int,
    rounds: int = 12,
    progress: Callable[[str], None] = lambda _: None,
) -> list[LayerTime]:
    """The time of every layer, as little disturbed by other programs as can be.

    A machine only ever makes a kernel slower than it is, so of the medians of several rounds the
    smallest is taken.

    Args:
        bundle: the bundle's folder; its inputs are fed random numbers.
        threads: CPU threads, as in `open_bundle`.
        rounds: of 3 runs each.
        progress: told each round.
    """
    engine = open_bundle(bundle, threads=threads)
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {
        name: rng.standard_normal(tuple(extent or 1 for extent in shape), dtype=np.float32)
        for name, shape in engine.inputs.items()
    }
    best: list[LayerTime] = []
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        times = engine.profile(feeds, 3)
        best = [min(pair, key=lambda t: t.ms) for pair in zip(best or times, times, strict=True)]
    return best
