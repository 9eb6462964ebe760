"""How much two runs of a network differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError
from graphopt.ir.arrays import Array, Feeds, Floats
from graphopt.ir.onnx_io import serialised
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.sample_inputs import SAMPLE_SEED

NOISE_LIMIT = 0.1
"""Where onnxruntime's own answers differ by more, they are no yardstick: see `agreement`."""
NOISES = 2.0
"""Differences may be so many times onnxruntime's own: any of three may be the odd one."""
NUDGE = 1e-7
"""What inputs are moved by, relative to each value, to see what becomes of rounding: float32's."""


def difference(value: Array, reference: Array) -> float:
    """The largest absolute difference, relative to the reference's range.

    Infinite where the shapes differ, or where a value is not finite and the other is not the same.
    """
    if value.shape != reference.shape:
        return float("inf")
    if not value.size:
        return 0.0
    a, b = value.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        return float("inf")
    if not finite.any():
        return 0.0
    inside = b[finite]
    spread = float(np.ptp(inside)) or float(np.abs(inside).max()) or 1.0
    return float(np.abs(a[finite] - inside).max()) / spread


def floored_variance(variance: Floats) -> Floats:
    """Variances of channels as errors are divided by them: quiet channels count as less quiet."""
    return np.maximum(variance, max(QUIET * variance.mean(), 1e-30))


class OutputError:
    """How far a network's outputs are from another's, over many inputs.

    A channel at a time: a heat map of a background, with its large values, would outweigh those of
    all parts.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Floats] = {}

    def add(self, values: Feeds, expected: Feeds) -> None:
        """Take in both networks' outputs for one input: [N,C,H,W], [C,H,W] or others."""
        for name, reference in expected.items():
            a, b = (_by_channel(v).astype(np.float64) for v in (values[name], reference))
            moments = np.array(
                [
                    np.square(a - b).sum(axis=1),
                    np.square(b).sum(axis=1),
                    b.sum(axis=1),
                    np.full(len(b), b.shape[1]),
                ]
            )
            self._sums[name] = self._sums.get(name, 0.0) + moments

    @property
    def errors(self) -> dict[str, float]:
        """The norm of the difference of each output, relative to that of the second's deviation.

        1 for an output whose channels are always their means.
        """
        errors = {}
        for name, (wrong, square, total, count) in self._sums.items():
            whole = floored_variance(square - total**2 / count)
            errors[name] = float(np.sqrt((wrong / whole).mean()))
        return errors

    @property
    def value(self) -> float:
        """The mean error of the outputs."""
        return float(np.mean([*self.errors.values()]))


def _by_channel(values: Array) -> Array:
    """[channels, everything else]; what has no height and width is one channel."""
    if values.ndim < 3:
        return values.reshape(1, -1)
    channels = np.moveaxis(values, -3, 0)
    return channels.reshape(len(channels), -1)


def output_error(graph: gs.Graph, reference: gs.Graph, feeds: Iterable[Feeds]) -> float:
    """The `OutputError` of a network over some inputs.

    Raises:
        InputError: one of the two does not run on the inputs.
    """
    with serialised(graph) as model, serialised(reference) as other:
        engine, judge = OnnxRuntimeEngine(model), OnnxRuntimeEngine(other)
    error = OutputError()
    for feed in feeds:
        error.add(engine.run(feed), judge.run(feed))
    return error.value


@dataclass(frozen=True)
class Agreement:
    """How far outputs are from a reference's, and whether that is rounding."""

    difference: float
    """The largest, see `difference`."""
    noise: float | None = None
    """onnxruntime's own, where the plain limit was exceeded: how far its answers with and without
    its graph optimisations, or to inputs moved by `NUDGE`, are apart in that output."""
    excess: str | None = None
    """Why it is more than rounding, in a phrase; None where it is not."""
    unanswered: int = 0
    """Inputs that were left out, since onnxruntime's own answers differ by more than `NOISE_LIMIT`
    there."""
    told: str = ""
    """How many values differ, where that is what was judged (`graphopt.runtime.steps`)."""

    @property
    def within(self) -> str:
        """What to say where only onnxruntime's noise allows the difference; else nothing."""
        if self.told and not self.excess:
            return self.told
        if self.noise is None or self.excess:
            return ""
        left = ""
        if self.unanswered:
            left = f", but for {self.unanswered} of the inputs, where its own answers disagree"
        return f"the difference is within onnxruntime's own noise of {self.noise:.1e}{left}"


def agreement(
    values: Sequence[Feeds],
    references: Sequence[Feeds],
    limit: Callable[[str], float],
    rivals: Callable[[], Iterable[Sequence[Feeds]]],
    excused: float = NOISES,
) -> Agreement:
    """Compare outputs with onnxruntime's.

    Networks that amplify rounding (steps of quantisation, half precision, gates near a threshold)
    have no one answer: onnxruntime's graph optimisations alone, or inputs rounded otherwise, move
    their outputs. Where a limit is exceeded, that is the yardstick: the largest difference may be
    `excused` times the largest of onnxruntime's own, and so may the root of the mean square, so
    that one step that falls the other way does not excuse a shift of everything. An input where
    onnxruntime's own answers differ by more than `NOISE_LIMIT` (pixels of 0 to 255, say, for a
    network that was trained on 0 to 1) has no answer, and the others count; where none has one, or
    anything is not finite, nothing is excused.

    Args:
        values: outputs by name, for each input.
        references: onnxruntime's.
        limit: of the largest difference, for an output by name.
        rivals: asks onnxruntime once more, in other ways; only called where a limit is exceeded.
        excused: how many times onnxruntime's own differences may be exceeded.
    """
    pairs = [(i, name) for i, known in enumerate(references) for name in known]
    found = {(i, name): difference(values[i][name], references[i][name]) for i, name in pairs}
    worst = max(found.values(), default=0.0)
    beyond = {(i, n): d for (i, n), d in found.items() if not d <= limit(n)}
    if not beyond:
        return Agreement(worst)
    if not np.isfinite(worst):
        return Agreement(worst, excess="which is not finite, or of another shape")
    try:
        others = list(rivals())
    except GraphoptError:  # its optimisations fail on this network
        return Agreement(worst, excess="")
    noises = {
        (i, name): max(difference(other[i][name], references[i][name]) for other in others)
        for i, name in beyond
    }
    unanswered = {i for (i, _), own in noises.items() if not own <= NOISE_LIMIT}
    if len(unanswered) == len(references):
        own = max(noises.values())
        said = f"onnxruntime itself differs by {own:.1e}, with and without its optimisations"
        return Agreement(worst, own, f"{said}: this network has no answer to compare with")
    noise = 0.0
    for (i, name), moved in sorted(beyond.items(), key=lambda item: -item[1]):
        if i in unanswered:
            continue
        ours, reference, own = values[i][name], references[i][name], noises[i, name]
        noise = max(noise, own)
        spread = max(_rms(other[i][name], reference) for other in others)
        if moved > excused * own or _rms(ours, reference) > max(limit(name), excused * spread):
            return Agreement(worst, own, f"onnxruntime's own noise is {own:.1e}")
    counted = max((d for (i, _), d in found.items() if i not in unanswered), default=0.0)
    return Agreement(counted, noise, unanswered=len(unanswered))


def nudged(feeds: Feeds, seed: int = SAMPLE_SEED, by: float = NUDGE) -> Feeds:
    """Inputs as near as float32 tells apart: what an engine's rounding might have made of them.

    Args:
        feeds: inputs by name.
        seed: of the noise.
        by: the deviation of what they are moved by, relative to each value.
    """
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(
            value.astype(np.float64) * (1 + by * rng.standard_normal(value.shape)), value.dtype
        )
        if value.dtype == np.float32
        else value
        for name, value in feeds.items()
    }


def _rms(value: Array, reference: Array) -> float:
    """The root of the mean square of differences, relative to the reference's range."""
    a, b = value.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(b)
    inside = b[finite]
    spread = float(np.ptp(inside)) or float(np.abs(inside).max()) or 1.0
    return float(np.sqrt(np.square(a[finite] - inside).mean())) / spread


QUIET = 0.05
"""The least variance that counts for a channel, as a part of the channels' mean one."""
