"""The choice among the templates for a quantised convolution.

A template has six functions: `tiles`, `cost`, `pack_weight` and `build` as those of floats
(`kernels.conv.choice`); `starting_sums`, what its sums begin with; and `pack_vectors`, how they and
the epilogue's vectors lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv.template import Number, Tile
from graphopt.codegen.kernels.int8 import conv_amx, conv_depthwise, conv_depthwise_words, conv_dot
from graphopt.codegen.kernels.int8.dot import UNITS
from graphopt.codegen.kernels.int8.spec import Int8Conv, Integers
from graphopt.codegen.targets import Target

TEMPLATES: Mapping[str, ModuleType] = MappingProxyType(
    {
        "conv_int8_words": conv_depthwise_words,
        "conv_int8_depthwise": conv_depthwise,
        "conv_int8_amx": conv_amx,
        "conv_int8_dot": conv_dot,
    }
)
"""Templates by the names of their kernels; of two that cost the same, the first is taken."""


class Int8Choice(NamedTuple):
    """How a quantised convolution is computed: the template, and its register tile."""

    kernel: str
    tile: Tile

    def pack_weight(self, weight: Integers, spec: Int8Conv, target: Target) -> NDArray[np.generic]:
        """The weights, (O, I of a group, kh, kw), as the kernel reads them."""
        packed: NDArray[np.generic] = TEMPLATES[self.kernel].pack_weight(
            weight, spec, target, self.tile
        )
        return packed

    def pack_start(
        self, start: Integers, weight: Integers, spec: Int8Conv, target: Target
    ) -> Integers:
        """The bias, (O,), as the kernel's sums begin with it: (vectors, lanes)."""
        sums = TEMPLATES[self.kernel].starting_sums(start, weight, spec, target)
        return self.pack_vectors(sums, spec, target)

    def pack_vectors(
        self, values: NDArray[Number], spec: Int8Conv, target: Target
    ) -> NDArray[Number]:
        """A number a channel, (O,), as the kernel reads them: (vectors, lanes)."""
        packed: NDArray[Number] = TEMPLATES[self.kernel].pack_vectors(values, spec, target)
        return packed

    def build(self, spec: Int8Conv, target: Target) -> Any:
        """The kernel as a TIR PrimFunc; parameters as in `Int8Parameters`."""
        return TEMPLATES[self.kernel].build(spec, target, self.tile)

    def features(self, target: Target) -> tuple[str, ...]:
        """What a CPU must have for it beside the target's, as /proc/cpuinfo names it."""
        if self.kernel == "conv_int8_amx":
            return ("amx_tile", "amx_int8")
        if self.kernel == "conv_int8_depthwise":
            return ()
        return UNITS[target.dot].features


def candidates(spec: Int8Conv, target: Target) -> list[Int8Choice]:
    """All ways to compute a convolution, by estimated time, the shortest first; maybe none."""
    costs = {
        Int8Choice(name, tile): module.cost(spec, target, tile)
        for name, module in TEMPLATES.items()
        for tile in module.tiles(spec, target)
    }
    return sorted(costs, key=costs.__getitem__)
