"""Pre-processing as kernels: a photo's bytes in, the network's input out, or its bytes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.pose import narrow
from graphopt.codegen.kernels.pose import preprocess as photo
from graphopt.codegen.kernels.pose.preprocess import PIXEL, PhotoSpec
from graphopt.codegen.lowering.byte_input import byte_input, moved_out
from graphopt.codegen.lowering.plan_extension import Kernels, Placed
from graphopt.codegen.targets import Target
from graphopt.pose.resample import most_neighbours
from graphopt.pose.spec import Preprocess
from graphopt.runtime.plan import Plan, Preparation, Tensor

_GIVEN = ("photo", "geometry", "columns", "rows")


def can_prepare(plan: Plan) -> bool:
    """Whether a network has one input, a float32 picture of three channels."""
    tensors = [plan.tensors[i] for i in plan.inputs.values()]
    return [(t.dtype, len(t.shape), t.shape[:2]) for t in tensors] == [("float32", 4, (1, 3))]


def with_preparation(
    plan: Plan,
    weights: bytes,
    functions: Mapping[str, Any],
    preprocess: Preprocess,
    side: int,
    target: Target,
    features: Sequence[str] = (),
) -> tuple[Plan, bytes, Mapping[str, Any]]:
    """Let kernels prepare photos for a network.

    Args:
        plan: the network's, before its kernels are compiled.
        weights: the content of weights.bin.
        functions: its kernels.
        preprocess: what its input should be.
        side: most pixels of a photo's side.
        target: what to compile for.
        features: what a CPU must have for the network's kernels, beside the target's.

    Returns:
        The plan and the weights with what is needed besides the network, and the kernels.
    """
    (index,) = plan.inputs.values()
    height, width = plan.tensors[index].shape[2:]
    neighbours = most_neighbours(side, (width, height))
    spec = PhotoSpec(preprocess, (height, width), side, neighbours)
    made = byte_input(plan, weights, functions, preprocess) if target.kind == "cpu" else None
    if made is None:
        place = photo.build_place(spec, target)
        constants: dict[str, NDArray[np.generic]] = {"colors": photo.pack_colors(preprocess)}
    else:
        index, plan = made.tensor, moved_out(plan, made.tensor)
        place, constants = photo.build_place_bytes(spec, target), {"steps": made.steps}
    dot = narrow.unit(target)
    may = dot is not None and {*target.cpu_features, *features} >= {*dot.features}
    scaled = narrow.build(spec, target, dot) if dot and may else photo.build_narrow(spec, target)
    kernels = Kernels({"narrow_photo": scaled, "place_photo": place}, constants)
    data, packed = kernels.packed(len(weights))
    given: dict[str, Tensor | int] = {
        name: Tensor(shape=shape, dtype=dtype, arena=None)
        for kernel in kernels.functions
        for name, shape, dtype in kernels.parameters(kernel)
        if name in _GIVEN
    }
    placed = Placed(
        kernels,
        {**given, **packed, "input": index},
        "prepare",
        arena=len(plan.arenas),
        first=len(plan.tensors),
    )
    places = {name: placed.index[name] for name in _GIVEN}
    preparation = Preparation(**places, side=side, neighbours=neighbours, pixel=PIXEL)
    plan = replace(placed.added_to(plan), preparation=preparation)
    return plan, weights + data, kernels.functions
