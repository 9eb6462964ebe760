"""The kernel templates, a file each: `handles(spec, target)`, `pack_weight`, `build` -> TIR."""

from __future__ import annotations

from types import ModuleType

from graphopt.codegen.kernels import conv_1x1, conv_dense, conv_depthwise, conv_winograd
from graphopt.codegen.kernels.conv import ConvSpec
from graphopt.codegen.targets import Target

CONVOLUTIONS: tuple[ModuleType, ...] = (conv_depthwise, conv_1x1, conv_winograd, conv_dense)
"""Most special first: the first that handles a convolution computes it."""


def convolution_for(spec: ConvSpec, target: Target) -> ModuleType:
    """The kernel template for a convolution (`conv_dense` handles every dense one)."""
    return next(module for module in CONVOLUTIONS if module.handles(spec, target))
