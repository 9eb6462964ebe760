"""The choice among the templates for a quantised convolution.

A template has six functions: `tiles`, `cost`, `pack_weight` and `build` as those of floats
(`kernels.conv.choice`); `starting_sums`, what its sums begin with; and `pack_vectors`, how they and
the epilogue's vectors lie. A sparse one has three more: `extents`, of the blocks of zeros that it
can leave out; `kept_of`, how many it does not; and `pack_index`, where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv.ranking import ways
from graphopt.codegen.kernels.conv.template import Number, Tile
from graphopt.codegen.kernels.low_precision import (
    conv_amx,
    conv_depthwise,
    conv_depthwise_words,
    conv_dot,
    conv_dot_gpu,
    conv_dot_sparse,
    conv_winograd,
)
from graphopt.codegen.kernels.low_precision.conv_transpose import Transposed
from graphopt.codegen.kernels.low_precision.dot import UNITS
from graphopt.codegen.kernels.low_precision.int8_spec import Int8Conv, Integers
from graphopt.codegen.targets import Target

SPARSE: Mapping[str, ModuleType] = MappingProxyType({"conv_int8_sparse_dot": conv_dot_sparse})
"""The templates whose kernels depend on what is zero in the weight."""
ORDINARY: Mapping[str, ModuleType] = MappingProxyType(
    {
        "conv_int8_words": conv_depthwise_words,
        "conv_int8_depthwise": conv_depthwise,
        "conv_int8_amx": conv_amx,
        "conv_int8_winograd": conv_winograd,
        "conv_int8_dot": conv_dot,
        **SPARSE,
        "conv_int8_gpu": conv_dot_gpu,
    }
)
"""Templates by the names of their kernels; of two that cost the same, the first is taken."""
TRANSPOSED: Mapping[str, Transposed] = MappingProxyType(
    {
        "conv_int8_transpose_depthwise": Transposed(conv_depthwise, weights="float32"),
        "conv_int8_transpose_amx": Transposed(conv_amx),
        "conv_int8_transpose_dot": Transposed(conv_dot),
        "conv_int8_transpose_gpu": Transposed(conv_dot_gpu, starts=2),
    }
)
"""Those of transposed convolutions."""
GROUPED = frozenset(
    f"conv_int8_{name}"
    for kernel in ("amx", "dot", "gpu")
    for name in (kernel, f"transpose_{kernel}")
)
"""Those that compute grouped convolutions which are not depthwise."""
TEMPLATES: Mapping[str, ModuleType | Transposed] = MappingProxyType({**ORDINARY, **TRANSPOSED})
"""All of them."""


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

    def pack_index(self, weight: Integers, spec: Int8Conv, target: Target) -> Integers | None:
        """The array of indices that a sparse kernel takes beside its weight; None of others."""
        if self.kernel not in SPARSE:
            return None
        index: Integers = SPARSE[self.kernel].pack_index(weight, spec, target)
        return index

    def needs(self, spec: Int8Conv) -> Int8Conv:
        """What of a convolution the kernel depends on: not on zeros, unless it leaves them out."""
        spec = replace(spec, weight_sum=None)
        if self.kernel in SPARSE:
            return spec
        return replace(spec, conv=replace(spec.conv, block=None, kept=0))

    def pack_start(
        self, start: Integers, weight: Integers, spec: Int8Conv, target: Target
    ) -> Integers:
        """The bias, (O,), as the kernel's sums begin with it: (vectors, lanes).

        Where the kernel takes several such beginnings, one after the other.
        """
        sums = TEMPLATES[self.kernel].starting_sums(start, weight, spec, target)
        every = [self.pack_vectors(one, spec, target) for one in np.atleast_2d(sums)]
        return np.concatenate(every)

    def pack_vectors(
        self, values: NDArray[Number], spec: Int8Conv, target: Target
    ) -> NDArray[Number]:
        """A number a channel, (O,), as the kernel reads them: (vectors, lanes)."""
        packed: NDArray[Number] = TEMPLATES[self.kernel].pack_vectors(values, spec, target)
        return packed

    def build(self, spec: Int8Conv, target: Target) -> Any:
        """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
        return TEMPLATES[self.kernel].build(spec, target, self.tile)

    def features(self, target: Target) -> tuple[str, ...]:
        """What a CPU must have for it beside the target's, as /proc/cpuinfo names it."""
        if self.kernel.endswith("_amx"):
            return ("amx_tile", "amx_int8")
        if self.kernel.endswith("_depthwise"):
            return ()
        return UNITS[target.dot].features


def punched(spec: Int8Conv, weight: Integers, target: Target) -> Int8Conv:
    """The same convolution with what is zero in its weight: `block` and `kept`.

    Args:
        spec: the convolution.
        weight: (O, I of a group, kh, kw).
        target: where it will run.
    """
    if spec.conv.groups > 1 or spec.conv.transposed:
        return spec
    ways = [
        (module, replace(spec, conv=replace(spec.conv, block=block, kept=kept)))
        for module in SPARSE.values()
        for block in module.extents(spec, target)
        for kept in [module.kept_of(weight, spec, block, target)]
    ]
    costs = [
        (module.cost(way, target, tile), n)
        for n, (module, way) in enumerate(ways)
        for tile in module.tiles(way, target)
    ]
    return ways[min(costs)[1]][1] if costs else spec


def candidates(spec: Int8Conv, target: Target) -> list[Int8Choice]:
    """All ways to compute a convolution, by estimated time, the shortest first; maybe none."""
    templates: Mapping[str, Any] = TRANSPOSED if spec.conv.transposed else ORDINARY
    if spec.conv.groups > 1 and not spec.conv.depthwise:
        templates = {name: module for name, module in templates.items() if name in GROUPED}
    return [Int8Choice(*way) for way in ways(templates, spec, target)]
