"""The kernel templates, a file each: `handles(spec)`, `pack_weight`, `build` -> TIR PrimFunc."""

from __future__ import annotations

from types import ModuleType

from graphopt.codegen.kernels import conv_1x1, conv_dense, conv_depthwise
from graphopt.codegen.kernels.conv import ConvSpec

CONVOLUTIONS: tuple[ModuleType, ...] = (conv_depthwise, conv_1x1, conv_dense)
"""Most special first: the first that handles a convolution computes it."""


def convolution_for(spec: ConvSpec) -> ModuleType:
    """The kernel template for a convolution (`conv_dense` handles every dense one)."""
    return next(module for module in CONVOLUTIONS if module.handles(spec))
