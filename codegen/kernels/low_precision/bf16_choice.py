"""The choice among the templates for a convolution of bfloat16 numbers.

They are those of bytes (`int8_choice`): where a word of an input is four bytes, it is two bfloat16
numbers here. Depthwise ones have one of their own beside that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.conv.ranking import ways
from graphopt.codegen.kernels.conv.template import Tile
from graphopt.codegen.kernels.epilogue import Floats
from graphopt.codegen.kernels.low_precision import (
    conv_amx,
    conv_depthwise,
    conv_depthwise_pairs,
    conv_dot,
    conv_squares,
)
from graphopt.codegen.kernels.low_precision.bf16_spec import Bf16Conv
from graphopt.codegen.kernels.low_precision.bfloat16 import bits_of
from graphopt.codegen.kernels.low_precision.conv_transpose import Transposed
from graphopt.codegen.kernels.low_precision.dot import BF16_UNITS
from graphopt.codegen.targets import Target

ORDINARY: Mapping[str, ModuleType] = MappingProxyType(
    {
        "conv_bf16_pairs": conv_depthwise_pairs,
        "conv_bf16_depthwise": conv_depthwise,
        "conv_bf16_amx": conv_amx,
        "conv_bf16_squares": conv_squares,
        "conv_bf16_dot": conv_dot,
    }
)
"""Templates by the names of their kernels; of two that cost the same, the first is taken."""
TRANSPOSED: Mapping[str, Transposed] = MappingProxyType(
    {
        "conv_bf16_transpose_depthwise": Transposed(conv_depthwise, weights="float32"),
        "conv_bf16_transpose_amx": Transposed(conv_amx),
        "conv_bf16_transpose_dot": Transposed(conv_dot),
    }
)
"""Those of transposed convolutions."""
GROUPED = frozenset(
    f"conv_bf16_{name}" for kernel in ("amx", "dot") for name in (kernel, f"transpose_{kernel}")
)
"""Those that compute grouped convolutions which are not depthwise."""
TEMPLATES: Mapping[str, ModuleType | Transposed] = MappingProxyType({**ORDINARY, **TRANSPOSED})
"""All of them."""


class Bf16Choice(NamedTuple):
    """How a convolution is computed: the template, and its register tile."""

    kernel: str
    tile: Tile

    def pack_weight(self, weight: Floats, spec: Bf16Conv, target: Target) -> NDArray[np.generic]:
        """The weights, (O, I of a group, kh, kw), rounded and as the kernel reads them."""
        values = weight if spec.conv.depthwise else bits_of(weight)
        packed: NDArray[np.generic] = TEMPLATES[self.kernel].pack_weight(
            values, spec, target, self.tile
        )
        return packed

    def pack_vectors(self, values: Floats, spec: Bf16Conv, target: Target) -> Floats:
        """A number a channel, (O,), as the kernel reads them: (vectors, lanes)."""
        packed: Floats = TEMPLATES[self.kernel].pack_vectors(values, spec, target)
        return packed

    def build(self, spec: Bf16Conv, target: Target) -> Any:
        """The kernel as a TIR PrimFunc; parameters as in `StoredParameters`."""
        return TEMPLATES[self.kernel].build(spec, target, self.tile)

    def features(self, target: Target) -> tuple[str, ...]:
        """What a CPU must have for it beside the target's, as /proc/cpuinfo names it."""
        unit = ("amx_tile", "amx_bf16") if self.kernel.endswith("_amx") else ()
        return (*BF16_UNITS[target.bfloat16].features, *unit)


def candidates(spec: Bf16Conv, target: Target) -> list[Bf16Choice]:
    """All ways to compute a convolution, by estimated time, the shortest first; maybe none."""
    templates: Mapping[str, Any] = TRANSPOSED if spec.conv.transposed else ORDINARY
    if spec.conv.groups > 1 and not spec.conv.depthwise:
        templates = {name: module for name, module in templates.items() if name in GROUPED}
    return [Bf16Choice(*way) for way in ways(templates, spec, target)]
