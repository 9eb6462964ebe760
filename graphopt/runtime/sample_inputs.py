"""Inputs to run networks on where nobody gives any.

They are seeded images with the statistics of natural ones: a power spectrum that falls with the
square of the spatial frequency (D. J. Field, "Relations between the statistics of natural images
and the response properties of cortical cells", JOSA A 4(12), 1987). Each network sees them at three
scales, since nothing in an ONNX file says whether it expects pixels or normalised values: 0 to 255,
0 to 1, and mean 0 with deviation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError, InputError, Unsupported
from graphopt.ir.arrays import Dim, Feeds, Floats, channels_last, has_colours
from graphopt.ir.graph import static_shape
from graphopt.ir.onnx_io import serialised
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.synthetic_images import natural_noise

_SIZES = ((96, 128), (128, 192), (192, 256), (256, 256), (224, 224), (368, 368), (512, 512))
"""Heights and widths to try for dynamic inputs, modest first and not square, so that a transposed
image shows."""
SAMPLE_SEED = 20240607
WITHOUT_RUNNING = "--verify off goes on without running the network"


def _pixels(image: Floats) -> Floats:
    return np.clip(image * 0.25 + 0.5, 0.0, 1.0)


_SCALES: tuple[Callable[[Floats], Floats], ...] = (
    lambda image: 255.0 * _pixels(image),
    _pixels,
    lambda image: image,
)


def sample_feeds(graph: gs.Graph, shapes: Mapping[str, Sequence[int]]) -> list[Feeds]:
    """The seeded inputs that networks are compared on: one set for each scale.

    Images of whole numbers are pixels, 0 to 255 (or as far as the type goes). Other inputs
    get normal noise, or zeros and ones.

    Raises:
        Unsupported: for inputs that are sequences or strings, or of types that NumPy lacks.
    """
    feeds: list[Feeds] = []
    for scale in _SCALES:
        rng = np.random.default_rng(SAMPLE_SEED)
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
        engine = reference_engine(model)
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


def reference_engine(model: bytes | Path, *, optimize: bool = False) -> OnnxRuntimeEngine:
    """onnxruntime, to run a network node by node as it is written.

    Raises:
        Unsupported: it does not run it; says what goes on without.
    """
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
