"""Whether a rewritten network still is the network: well-formed, and equal within its numerics.

Networks are run by onnxruntime, node by node as they are written, on seeded images with the
statistics of natural ones: a power spectrum that falls with the square of the spatial frequency
(D. J. Field, "Relations between the statistics of natural images and the response properties of
cortical cells", JOSA A 4(12), 1987). Each network sees them at three scales, since nothing in an
ONNX file says whether it expects pixels or normalised values: 0 to 255, 0 to 1, and mean 0 with
deviation 1. The worst scale counts. A difference is the largest absolute one in a tensor, relative
to the range of that tensor's values in the reference (maximum minus minimum).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.errors import CheckFailed, GraphoptError, InputError, Unsupported
from graphopt.ir.graph import Dim, reads_of, reason_of, static_shape
from graphopt.ir.onnx_io import copy_model, serialised
from graphopt.optimizer.pass_contract import Numerics
from graphopt.runtime.engine import Array, OnnxRuntimeEngine, channels_last, has_colours
from graphopt.runtime.synthetic_images import natural_noise

EXACT_LIMITS = {"float16": 1e-2}
"""The largest difference that an exact pass may make to what is computed in half precision, or from
something that is."""
EXACT_LIMIT = 1e-4
"""The same for every other element type."""
APPROXIMATE_LIMIT = 1.0
"""The largest difference that an approximate pass may make: an output that moves by more than its
range is another one."""
NOISE_LIMIT = 0.1
"""Where onnxruntime's own answers differ by more, they are no yardstick: see `agreement`."""
NOISES = 2.0
"""Differences may be so many times onnxruntime's own: any of three may be the odd one."""
NUDGE = 1e-7
"""What inputs are moved by, relative to each value, to see what becomes of rounding: float32's."""

_SIZES = ((96, 128), (128, 192), (192, 256), (256, 256), (224, 224), (368, 368), (512, 512))
"""Heights and widths to try for dynamic inputs, modest first and not square, so that a transposed
image shows."""
_SEED = 20240607
WITHOUT_RUNNING = "--verify off goes on without running the network"

Feeds: TypeAlias = Mapping[str, Array]
Floats: TypeAlias = NDArray[np.float64]


def _pixels(image: Floats) -> Floats:
    return np.clip(image * 0.25 + 0.5, 0.0, 1.0)


_SCALES: tuple[Callable[[Floats], Floats], ...] = (
    lambda image: 255.0 * _pixels(image),
    _pixels,
    lambda image: image,
)


def sample_feeds(graph: gs.Graph, shapes: Mapping[str, Sequence[int]]) -> list[Feeds]:
    """The seeded inputs that networks are compared on: one set for each scale.

    Images of whole numbers are pixels, 0 to 255 (or as far as the type goes). Inputs that are no
    images get normal noise, or zeros and ones.

    Raises:
        Unsupported: for inputs that are sequences or strings, or of types that NumPy lacks.
    """
    feeds: list[Feeds] = []
    for scale in _SCALES:
        rng = np.random.default_rng(_SEED)
        feed = {}
        for tensor in graph.inputs:
            known = isinstance(tensor.dtype, np.dtype) and not tensor.dtype.hasobject
            if tensor.type != "tensor_type" or not known:
                raise Unsupported(
                    f"input {tensor.name} is of a type that cannot be made up to run the network",
                    hint=WITHOUT_RUNNING,
                )
            shape, dtype = tuple(shapes[tensor.name]), tensor.dtype
            if np.issubdtype(dtype, np.integer) and has_colours(shape):
                limits = np.iinfo(dtype)
                pixels = np.rint(255 * _pixels(_noise(shape, rng))) + min(limits.max - 255, 0)
                feed[tensor.name] = np.asarray(np.clip(pixels, limits.min, limits.max), dtype)
            elif not np.issubdtype(dtype, np.floating):
                feed[tensor.name] = np.asarray(rng.integers(0, 2, shape), dtype)
            elif len(shape) >= 3 and min(shape[-2:]) > 1:
                feed[tensor.name] = np.asarray(scale(_noise(shape, rng)), dtype)
            else:
                feed[tensor.name] = np.asarray(rng.standard_normal(shape), dtype)
        feeds.append(feed)
    return feeds


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    if not channels_last(shape):
        return natural_noise(shape, rng)
    batch, height, width, channels = shape
    return np.moveaxis(natural_noise((batch, channels, height, width), rng), 1, 3)


def example_shapes(graph: gs.Graph) -> dict[str, tuple[int, ...]]:
    """A size for every input: its own where it is fixed, else the first modest one that runs.

    Raises:
        InputError: when the network runs at none of them.
        Unsupported: when onnxruntime does not run it at all.
    """
    fixed = {tensor.name: static_shape(tensor) for tensor in graph.inputs}
    if all(shape is not None for shape in fixed.values()):
        return {name: shape for name, shape in fixed.items() if shape is not None}
    with serialised(graph) as model:
        engine = _engine(model)
        reason = ""
        for size in _SIZES:
            shapes = bound_shapes(graph, size)
            try:
                engine.run(sample_feeds(graph, shapes)[0])
            except InputError as error:
                reason = error.message
            else:
                return shapes
    raise InputError(
        f"the network runs at no usual input size: {reason}",
        hint="give one with --input-shape NAME:1,3,368,656",
    )


def example_shapes_if_any(graph: gs.Graph) -> dict[str, tuple[int, ...]]:
    """The same for counting only: nothing where the network cannot be run to find a size."""
    try:
        return example_shapes(graph)
    except GraphoptError:
        return {}


def _engine(model: bytes | Path, *, optimize: bool = False) -> OnnxRuntimeEngine:
    try:
        return OnnxRuntimeEngine(model, optimize=optimize)
    except InputError as error:
        raise Unsupported(error.message, hint=WITHOUT_RUNNING) from error


def bound_shapes(graph: gs.Graph, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Every input's shape, its dynamic extents chosen; a name means the same extent anywhere."""
    names: dict[str, int] = {}

    def bind(dim: Dim, choice: int) -> int:
        if isinstance(dim, int):
            return dim
        return names.setdefault(dim, choice) if isinstance(dim, str) and dim else choice

    shapes = {}
    for tensor in graph.inputs:
        dims = list(tensor.shape or (None,) * 4)
        image = [1, *size, 3] if channels_last(dims) else [1, 3, *size]
        choices = image if len(dims) == 4 else [1] * len(dims)
        shapes[tensor.name] = tuple(bind(d, c) for d, c in zip(dims, choices, strict=True))
    return shapes


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


QUIET = 0.05
"""The least variance that counts for a channel, as a part of the channels' mean one."""


def heard(variance: Floats) -> Floats:
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
        """Of each output the norm of the difference, relative to that of the second's deviation.

        1 for an output whose channels are always their means.
        """
        errors = {}
        for name, (wrong, square, total, count) in self._sums.items():
            whole = heard(square - total**2 / count)
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
    """Of onnxruntime where the plain limit was exceeded: how far its answers with and without its
    graph optimisations, or to inputs moved by `NUDGE`, are apart in that output."""
    excess: str | None = None
    """Why it is more than rounding, in a phrase; None where it is not."""
    unanswered: int = 0
    """Inputs that were left out, since onnxruntime's own answers differ by more than `NOISE_LIMIT`
    there."""

    @property
    def within(self) -> str:
        """What to say where only onnxruntime's noise allows the difference; else nothing."""
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


def nudged(feeds: Feeds, seed: int = _SEED) -> Feeds:
    """Inputs as near as float32 tells apart: what an engine's rounding might have made of them."""
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(
            value.astype(np.float64) * (1 + NUDGE * rng.standard_normal(value.shape)), value.dtype
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


@dataclass(frozen=True)
class Verdict:
    """What a check of a rewritten graph found."""

    difference: float | None
    """Of the outputs, to the original network's; None when the graph could not be run."""
    failure: str | None = None
    """Why the check failed, in a sentence; None when it passed."""
    remark: str = ""
    """What allowed a difference beyond the plain limit."""


class Verifier:
    """Holds a network's outputs, and compares what passes make of it with them.

    Args:
        original: the network before any pass.
        input_shapes: the sizes to run at.

    Raises:
        InputError: when the network fails at that size.
        Unsupported: when onnxruntime does not run it at all, or its inputs cannot be made up.
    """

    def __init__(self, original: gs.Graph, input_shapes: Mapping[str, Sequence[int]]) -> None:
        self._feeds = sample_feeds(original, input_shapes)
        try:
            self._original = self._run(original)
        except InputError as error:
            raise InputError(
                error.message, hint=f"try another size with --input-shape; {WITHOUT_RUNNING}"
            ) from error
        # Some exporters declare shapes that do not fit, which onnxruntime forgives: so do we then.
        self._shapes_fit = _objection(original, with_shapes=True) is None
        self._halves = _in_half_precision(original)
        self._outputs = {t.name: (t.dtype, tuple(t.shape or ())) for t in original.outputs}
        # What exact passes are held to: the network as the last inexact pass left it.
        self._baseline, self._baseline_values = copy_model(original), self._original

    def check(self, graph: gs.Graph, numerics: Numerics) -> Verdict:
        """Judge a graph by what the pass that made it promises; whatever goes wrong is the verdict.

        An inexact pass that gets through is what later exact ones are compared with.
        """
        try:
            self._check_form(graph)
            values = self._run(graph)
        except GraphoptError as error:
            return Verdict(None, str(error.message))
        moved = self._difference(values, self._original)
        if numerics is not Numerics.EXACT:
            if not np.isfinite(moved):
                return Verdict(moved, f"outputs are not finite; {self._blame(graph)}")
            self._baseline, self._baseline_values = copy_model(graph), values
            return Verdict(moved)
        found = agreement(
            values,
            self._baseline_values,
            self._exact_limit,
            lambda: [
                self._run(self._baseline, optimize=True),
                self._run(self._baseline, feeds=[nudged(feed) for feed in self._feeds]),
            ],
        )
        if found.excess is None:
            return Verdict(moved, remark=found.within)
        noise = f", and {found.excess}" if found.excess else ""
        return Verdict(
            moved,
            f"an exact pass moved outputs by {found.difference:.1e} of their range{noise}; "
            f"{self._blame(graph)}",
        )

    def rebase(self, graph: gs.Graph) -> None:
        """Hold later exact passes to this graph: one that was checked before, and is back."""
        self._baseline, self._baseline_values = copy_model(graph), self._run(graph)

    def _check_form(self, graph: gs.Graph) -> None:
        outputs = {t.name: (t.dtype, tuple(t.shape or ())) for t in graph.outputs}
        if outputs != self._outputs:
            raise CheckFailed(f"the outputs changed from {self._outputs} to {outputs}")
        objection = _objection(graph, with_shapes=self._shapes_fit)
        if objection:
            raise CheckFailed(f"the graph is no longer valid ONNX: {objection}")

    def _run(
        self, graph: gs.Graph, *, optimize: bool = False, feeds: Sequence[Feeds] | None = None
    ) -> list[dict[str, Array]]:
        with serialised(graph) as model:
            engine = _engine(model, optimize=optimize)
            return [engine.run(feed) for feed in feeds or self._feeds]

    @staticmethod
    def _pairs(
        values: list[dict[str, Array]], references: list[dict[str, Array]]
    ) -> Iterator[tuple[str, Array, Array]]:
        for value, reference in zip(values, references, strict=True):
            yield from ((name, value[name], reference[name]) for name in reference if name in value)

    def _difference(
        self, values: list[dict[str, Array]], references: list[dict[str, Array]]
    ) -> float:
        return max((difference(a, b) for _, a, b in self._pairs(values, references)), default=0.0)

    def _exact_limit(self, tensor: str) -> float:
        return EXACT_LIMITS["float16"] if tensor in self._halves else EXACT_LIMIT

    def _breaks(self, values: list[dict[str, Array]], references: list[dict[str, Array]]) -> bool:
        return any(
            difference(a, b) > self._exact_limit(name)
            for name, a, b in self._pairs(values, references)
        )

    def _blame(self, graph: gs.Graph) -> str:
        """Name the first tensor, in the graph's order, that departs from its namesake before."""
        ours, theirs = graph.tensors(), self._baseline.tensors()
        names = [
            name
            for name, tensor in ours.items()
            if isinstance(tensor, gs.Variable)
            and tensor.inputs
            and name in theirs
            and isinstance(theirs[name], gs.Variable)
        ]
        try:
            values = self._run(_exposing(graph, names))
            references = self._run(_exposing(self._baseline, names))
        except GraphoptError as error:
            return f"which tensor departs first could not be found: {error.message}"
        for name in names:
            ours_only = [{name: value[name]} for value in values]
            theirs_only = [{name: reference[name]} for reference in references]
            if self._breaks(ours_only, theirs_only):
                worst = self._difference(ours_only, theirs_only)
                return f"the first tensor that departs is {name} ({worst:.1e} of its range)"
        return "no inner tensor departs that much"


def _in_half_precision(graph: gs.Graph) -> set[str]:
    """The tensors that are computed in half precision, or from such."""
    found: set[str] = set()
    for node in graph.nodes:
        made = {t.name for t in node.outputs}
        if any(t.dtype == np.float16 or t.name in found for t in [*reads_of(node), *node.outputs]):
            found |= made
    return found


def _objection(graph: gs.Graph, *, with_shapes: bool) -> str | None:
    """What the ONNX checker has against a graph."""
    with serialised(graph) as model:
        try:
            onnx.checker.check_model(model, full_check=with_shapes)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            return reason_of(error)
    return None


def _exposing(graph: gs.Graph, names: Sequence[str]) -> gs.Graph:
    """A copy whose outputs are the named tensors."""
    copied = copy_model(graph)
    tensors = copied.tensors()
    copied.outputs = [tensors[name] for name in names]
    for tensor in copied.outputs:
        tensor.dtype = tensor.dtype or np.dtype(np.float32)
    return copied
