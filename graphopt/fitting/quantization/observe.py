"""What a network's tensors hold over photos: some positions of each, and the largest values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.fitting.layerwise_runner import (
    batch_by_bytes,
    extract_subgraph,
    make_session,
    shapes_of,
)
from graphopt.fitting.patch_sampling import Sample, resized, salience
from graphopt.ir.arrays import Array

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
NUMBERS = 1 << 18
"""Numbers of a tensor that its range is searched for on, over all photos."""
AT_ONCE = 1 << 29
"""Bytes of activations that are taken from a network at once."""


@dataclass(frozen=True)
class Seen:
    """A tensor over photos."""

    values: Floats
    """At some positions, [positions, channels]: half of them where people are."""
    low: Floats
    """The least value of each channel, over all positions."""
    high: Floats
    """The largest."""

    def divided(self, factors: Floats) -> Seen:
        """The tensor where its channels are divided by positive factors."""
        return Seen(self.values / factors, self.low / factors, self.high / factors)


@dataclass(frozen=True)
class Observations:
    """What was seen of a network in some photos."""

    tensors: Mapping[str, Seen]
    targets: Mapping[str, list[Sample]] = field(default_factory=dict)
    """For layers, by the name of the output: a sample for each photo."""

    def divided(self, factors: Mapping[str, Floats]) -> Observations:
        """The same of a network where these tensors' channels are divided by positive factors."""
        tensors = {n: s.divided(factors[n]) if n in factors else s for n, s in self.tensors.items()}
        targets = {
            name: [replace(s, values=s.values / factors[name]) for s in samples]
            if name in factors
            else samples
            for name, samples in self.targets.items()
        }
        return Observations(tensors, targets)


def observe(
    graph: gs.Graph,
    feeds: Callable[[], Iterator[Mapping[str, Array]]],
    names: Sequence[str],
    targets: Mapping[str, int],
    *,
    count: int,
    seed: int,
) -> Observations:
    """Run a network over photos and keep some of what flows through it.

    Args:
        graph: the network.
        feeds: its inputs; gone through several times if not all tensors fit into memory at once.
        names: tensors whose ranges are wanted.
        targets: outputs of layers, and at how many positions of each photo they are wanted.
        count: how many photos.
        seed: of the positions.
    """
    rng = np.random.default_rng(seed)
    inputs = {t.name for t in graph.inputs}
    shapes = shapes_of(graph, next(feeds()))
    shown = [tensor.name for tensor in graph.outputs]
    seen: dict[str, list[tuple[Floats, Floats, Floats]]] = {name: [] for name in names}
    samples: dict[str, list[Sample]] = {name: [] for name in targets}
    for part in batch_by_bytes(dict.fromkeys([*names, *targets]), shapes, AT_ONCE):
        made = sorted({*part, *shown} - inputs)
        engine = make_session(extract_subgraph(graph, outputs=made))
        for feed in feeds():
            values = {**feed, **engine.run(feed)}
            places = _Places(salience([values[name] for name in shown]), rng)
            for name in part:
                if name in targets:
                    samples[name].append(places.sample(values[name], targets[name]))
                if name in seen:
                    seen[name].append(_glance(values[name], count, places))
    return Observations({name: _together(parts) for name, parts in seen.items()}, samples)


class _Places:
    """Random positions of one photo, half of them where people are; some may come twice.

    Args:
        where: the photo's `salience`.
        rng: what chooses them.
    """

    def __init__(self, where: Floats | None, rng: np.random.Generator) -> None:
        self._where, self._rng = where, rng
        self._sums: dict[tuple[int, int], Doubles] = {}

    def sample(self, values: Array, count: int) -> Sample:
        """So many positions of a tensor [1,C,H,W]."""
        height, width = values.shape[2:]
        if (height, width) not in self._sums:
            odds = np.ones(height * width) / (height * width)
            if self._where is not None:
                there = resized(self._where, (height, width)).ravel().astype(np.float64)
                odds = (odds + there / there.sum()) / 2
            self._sums[height, width] = np.cumsum(odds)
        sums = self._sums[height, width]
        chosen = np.searchsorted(sums, self._rng.random(count) * sums[-1])
        rows, columns = np.divmod(np.minimum(chosen, height * width - 1), width)
        return Sample(rows, columns, values[0][:, rows, columns].T.copy(), (height, width))


def _glance(values: Array, count: int, places: _Places) -> tuple[Floats, Floats, Floats]:
    """Some positions of a tensor, and each channel's extremes."""
    flat = values if values.ndim == 4 else values.reshape(1, -1, 1, 1)
    channels = flat.shape[1]
    positions = max(8, math.ceil(NUMBERS / (count * channels)))
    lines = flat.reshape(len(flat), channels, -1)
    return (
        places.sample(flat, positions).values,
        lines.min(axis=2).min(axis=0),
        lines.max(axis=2).max(axis=0),
    )


def _together(parts: Sequence[tuple[Floats, Floats, Floats]]) -> Seen:
    values, lows, highs = zip(*parts, strict=True)
    if len({v.shape[1] for v in values}) > 1:  # no channels: sizes of photos
        flat = np.concatenate([v.ravel() for v in values])[:, None]
        return Seen(flat, flat.min(axis=0), flat.max(axis=0))
    return Seen(np.concatenate(values), np.min(lows, axis=0), np.max(highs, axis=0))
