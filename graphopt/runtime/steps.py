"""How much two runs of a quantised network differ: in steps, and how many values do.

Where a value falls half-way between two steps, rounding decides which it becomes, and any two
engines decide otherwise for a few. So the largest difference tells little, least of all where
outputs have a range of two steps; what a wrong kernel shifts is many values, or all in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError
from graphopt.ir.arrays import Array, Feeds, Floats
from graphopt.ir.graph import is_standard, producer_of, scalar_of
from graphopt.runtime.differences import Agreement, difference

LEVELS = 255
"""Steps from end to end of an output whose quantisation is not known: those of 8 bits."""
FINEST = 1000
"""Most steps from end to end: finer ones, of 16 bits, are counted together, as float32 sums in
another order differ by some of those."""
NOISES = 3.0
"""Differences may be so many times those of onnxruntime's own answers from each other."""
NUDGE = 3e-6
"""What inputs are moved by to see which values are ties: what the sums of kernels round by."""
NO_ANSWER = 0.25
"""Where onnxruntime's own answers differ by a step or more in more than this share of an output's
values, steps tell nothing."""
TIES = 2
"""So many values of any slice may fall to another step by chance."""


class Shift(NamedTuple):
    """How far an output is from a reference, in steps of its quantisation."""

    largest: float
    """The largest distance."""
    moved: float
    """The share of values that are a step or more away."""
    beyond: float
    """The share of values that are more than a step away."""
    spread: float
    """The root of the mean square."""
    moved_slice: float
    """The largest share moved in one channel, row or column."""
    mean_slice: float
    """The largest mean of the distances, with their signs, in one channel, row or column."""


ALLOWED = Shift(3.0, 0.02, 0.004, 0.25, 0.1, 0.1)
"""What is allowed where onnxruntime's own answers do not differ at all: ties that fall otherwise,
some of which a later layer amplifies."""


class Steps(NamedTuple):
    """The steps of an output.

    Args:
        size: of one; None where it is not known.
        levels: from end to end.
    """

    size: float | None
    levels: int


def is_quantised(graph: gs.Graph) -> bool:
    """Whether a network rounds what it computes to steps."""
    return any(
        node.op in _ROUNDS and not all(isinstance(t, gs.Constant) for t in node.inputs)
        for node in graph.nodes
    )


_ROUNDS = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")


def steps_of(graph: gs.Graph) -> dict[str, Steps]:
    """The steps of each output, by name."""
    return {tensor.name: _steps(tensor) for tensor in graph.outputs}


def _steps(tensor: gs.Tensor) -> Steps:
    unknown = Steps(None, LEVELS)
    maker = producer_of(tensor)
    while maker is not None and is_standard(maker, *_KEEP):
        tensor = maker.inputs[0]
        maker = producer_of(tensor)
    if isinstance(tensor.dtype, np.dtype) and tensor.dtype.kind in "iu":
        return _coarse(1.0, tensor.dtype) if tensor.dtype.itemsize < 4 else unknown
    if maker is None or not is_standard(maker, "DequantizeLinear"):
        return unknown
    scale = scalar_of(maker.inputs[1])
    kind = next((t.dtype for t in (*maker.inputs[2:], maker.inputs[0]) if t.dtype), None)
    return _coarse(scale, kind) if scale else unknown


_KEEP = ("Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Relu")
"""Operators whose results are among the values of their inputs."""


def _coarse(scale: float, kind: Any) -> Steps:
    """The steps of a type, so many of them as one that there are no more than `FINEST`."""
    levels = int(2 ** (8 * np.dtype(kind).itemsize)) - 1 if kind is not None else LEVELS
    return Steps(scale * max(1.0, levels / FINEST), min(levels, FINEST))


def shift(value: Array, reference: Array, step: float) -> Shift:
    """How far an output, [N,C,H,W] or others, is from a reference of the same shape."""
    finite = np.isfinite(reference)
    a, b = value.astype(np.float64), reference.astype(np.float64)
    apart = np.where(finite, a - b, 0.0) / step
    size = np.abs(apart)
    moved = size > 0.5
    axes = [axis for axis, extent in enumerate(apart.shape) if extent > 1]
    shares, means = [0.0], [0.0]
    for axis in axes:
        others = tuple(a for a in range(apart.ndim) if a != axis)
        count = apart.size / apart.shape[axis]
        shares.append(float(_spared(moved.sum(axis=others)).max()) / count)
        means.append(float(_spared(np.abs(apart.sum(axis=others))).max()) / count)
    count = max(apart.size, 1)
    return Shift(
        largest=float(size.max(initial=0.0)),
        moved=float(_spared(moved.sum())) / count,
        beyond=float(_spared((size > 1.5).sum())) / count,
        spread=float(np.sqrt(np.square(apart).sum() / count)),
        moved_slice=max(shares),
        mean_slice=max(means),
    )


def _spared(counts: Array) -> Floats:
    return np.maximum(np.asarray(counts, np.float64) - TIES, 0.0)


def step_agreement(
    values: Sequence[Feeds],
    references: Sequence[Feeds],
    rivals: Callable[[], Iterable[Sequence[Feeds]]],
    steps: Mapping[str, Steps],
) -> Agreement | None:
    """Compare a quantised network's outputs with onnxruntime's.

    Each of them may differ from onnxruntime's answer, or from the first of its others, by what is
    `ALLOWED` and `NOISES` times what the answers differ from each other, in each respect.

    Args:
        values: outputs by name, for each input.
        references: onnxruntime's.
        rivals: asks onnxruntime in other ways, first node by node as the network is written.
        steps: of each output.

    Returns:
        None where steps tell nothing (`NO_ANSWER`).
    """
    pairs = [(i, name) for i, known in enumerate(references) for name in known]
    for i, name in pairs:
        if not np.isfinite(difference(values[i][name], references[i][name])):
            return Agreement(float("inf"), excess="which is not finite, or of another shape")
    try:
        others = list(rivals())
    except GraphoptError:  # its optimisations fail on this network
        others = []
    size = {name: _size(name, references, steps[name]) for _, name in pairs}
    own = {
        (i, name): _worst(
            shift(other[i][name], references[i][name], size[name]) for other in others
        )
        for i, name in pairs
    }
    if any(noise.moved > NO_ANSWER for noise in own.values()):
        return None
    judged = [_judged(values, known, own, size, steps) for known in (references, *others[:1])]
    return next((one for one in judged if one.excess is None), judged[0])


def _size(name: str, references: Sequence[Feeds], steps: Steps) -> float:
    """A step of an output; where it is not known, that of its whole range in so many."""
    if steps.size is not None:
        return steps.size
    spread = max(float(np.ptp(_finite(known[name]))) for known in references)
    return spread / steps.levels or 1.0


def _finite(value: Array) -> Floats:
    finite = value[np.isfinite(value)].astype(np.float64)
    return finite if finite.size else np.zeros(1)


def _worst(shifts: Iterable[Shift]) -> Shift:
    return Shift(*np.max([(0.0,) * len(ALLOWED), *shifts], axis=0).tolist())


def _judged(
    values: Sequence[Feeds],
    references: Sequence[Feeds],
    own: Mapping[tuple[int, str], Shift],
    size: Mapping[str, float],
    steps: Mapping[str, Steps],
) -> Agreement:
    """Outputs beside one of onnxruntime's answers, `own` being how far those are apart."""
    found = {(i, name): shift(values[i][name], references[i][name], size[name]) for i, name in own}
    whole = _worst(found.values())
    noise = _worst(own.values())
    parts = {key: one.largest / steps[key[1]].levels for key, one in found.items()}
    noises = max((one.largest / steps[name].levels for (_, name), one in own.items()), default=0.0)
    told = (
        f"{whole.moved:.1%} of an output's values differ by a step of quantisation or more, "
        f"{whole.beyond:.1%} by more, {noise.moved:.1%} and {noise.beyond:.1%} in onnxruntime's "
        "own answers"
    )
    for key, one in found.items():
        limits = [a + NOISES * b for a, b in zip(ALLOWED, own[key], strict=True)]
        for name, value, limit in zip(Shift._fields, one, limits, strict=True):
            if not value <= limit:
                why = _WHY[name].format(value=value, limit=limit)
                return Agreement(max(parts.values()), noises, f"{why}; {told}")
    return Agreement(max(parts.values(), default=0.0), noises, told=told)


_WHY = {
    "largest": "one value is {value:.0f} steps away, where {limit:.0f} would be rounding",
    "moved": "{value:.1%} of values are a step away, where {limit:.1%} would be rounding",
    "beyond": "{value:.1%} of values are steps away, where {limit:.1%} would be rounding",
    "spread": "values are {value:.2f} steps away, where {limit:.2f} would be rounding",
    "moved_slice": "in one channel, row or column {value:.1%} of values are a step away, where "
    "{limit:.1%} would be rounding",
    "mean_slice": "one channel, row or column is {value:.2f} steps away, where {limit:.2f} would "
    "be rounding",
}
"""What each limit says where it is exceeded."""
