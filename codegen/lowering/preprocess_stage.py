"""Pre-processing as kernels: a photo's bytes in, the network's input out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphopt.codegen.kernels.pose import preprocess as photo
from graphopt.codegen.kernels.pose.preprocess import PhotoSpec
from graphopt.codegen.lowering.plan_extension import Kernels, Placed
from graphopt.codegen.targets import Target
from graphopt.pose.resample import most_neighbours
from graphopt.pose.spec import Preprocess
from graphopt.runtime.bundle import Plan, Preparation, Tensor

_GIVEN = ("photo", "geometry", "columns", "rows")


def can_prepare(plan: Plan) -> bool:
    """Whether a network has one input, a float32 picture of three channels."""
    tensors = [plan.tensors[i] for i in plan.inputs.values()]
    return [(t.dtype, len(t.shape), t.shape[:2]) for t in tensors] == [("float32", 4, (1, 3))]


def with_preparation(
    plan: Plan, weights: bytes, preprocess: Preprocess, side: int, target: Target
) -> tuple[Plan, bytes, Mapping[str, Any]]:
    """Let kernels prepare photos for a network.

    Args:
        plan: the network's, before its kernels are compiled.
        weights: the content of weights.bin.
        preprocess: what its input should be.
        side: most pixels of a photo's side.
        target: what to compile for.

    Returns:
        The plan and the weights with what is needed besides the network, and the kernels.
    """
    (index,) = plan.inputs.values()
    height, width = plan.tensors[index].shape[2:]
    neighbours = most_neighbours(side, (width, height))
    spec = PhotoSpec(preprocess, (height, width), side, neighbours)
    kernels = Kernels(
        {
            "narrow_photo": photo.build_narrow(spec, target),
            "place_photo": photo.build_place(spec, target),
        },
        {"colors": photo.pack_colors(preprocess)},
    )
    data, constants = kernels.packed(len(weights))
    given: dict[str, Tensor | int] = {
        name: Tensor(shape=shape, dtype=dtype, arena=None)
        for kernel in kernels.functions
        for name, shape, dtype in kernels.parameters(kernel)
        if name in _GIVEN
    }
    placed = Placed(
        kernels,
        {**given, **constants, "input": index},
        "prepare",
        arena=len(plan.arenas),
        first=len(plan.tensors),
    )
    places = {name: placed.index[name] for name in _GIVEN}
    preparation = Preparation(**places, side=side, neighbours=neighbours)
    plan = replace(placed.added_to(plan), preparation=preparation)
    return plan, weights + data, kernels.functions
