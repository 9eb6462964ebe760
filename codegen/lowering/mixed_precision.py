"""Which tensors of a network may be stored in half precision.

A float16 has 11 bits, ends at 65504, and has fewer bits below 6e-5. So a weight is halved if
rounding it costs no more than those 11 bits, and an activation if the largest value that was seen
in calibration fits with room to spare. What was not seen to fit stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.emit import LARGEST_HALF
from graphopt.codegen.kernels.epilogue import Floats

MARGIN = 8
"""How many times larger than any seen a value may be. Made-up images were seen to miss the largest
activation of photos by a factor of 4. What is larger still is stored as the largest float16."""
SMALLEST = 2.0**-13
"""Where all values of a tensor are below this, float16 has fewer than 11 bits for the largest."""
ROUNDING = 1e-3
"""Largest error of a halved weight, relative and in the root mean square; 3e-4 is usual."""
SMALL = 2048
"""Activations of fewer numbers (gates) are not worth rounding."""


@dataclass
class Halves:
    """The choice for one network.

    Args:
        largest: ONNX node to the largest absolute value of its first output, in calibration.
        activations: whether activations are halved, or only weights.
    """

    largest: Mapping[str, float]
    activations: bool
    kept: list[str] = field(default_factory=list)
    """What does not fit, a phrase each."""

    def weight(self, packed: Floats, node: str) -> NDArray[np.generic]:
        """A packed weight of an ONNX node as it is to be stored: as float16, or as it is."""
        with np.errstate(over="ignore"):
            half = packed.astype(np.float16)
        norm = np.linalg.norm(packed)
        error = np.linalg.norm(half.astype(np.float32) - packed)
        if error <= ROUNDING * norm:
            return half
        layer = node or "a convolution"
        self.kept.append(f"the weight of {layer}, which would be off by {error / norm:.0e}")
        return packed

    def holds(self, node: str, size: int) -> bool:
        """Whether an activation of `size` numbers, made by an ONNX node, is to be halved."""
        return self._is_candidate(node, size) and self._fits(node)

    def refusal(self, node: str, size: int) -> str | None:
        """A phrase for `kept` on an activation that does not fit; None where there is no need."""
        if not self._is_candidate(node, size) or self._fits(node) or not self.largest[node]:
            return None
        return f"the output of {node}, whose largest value seen is {self.largest[node]:.0e}"

    def _is_candidate(self, node: str, size: int) -> bool:
        return self.activations and size >= SMALL and node in self.largest

    def _fits(self, node: str) -> bool:
        return SMALLEST <= self.largest[node] <= LARGEST_HALF / MARGIN
