"""What the compiler's processes are told, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graphopt.ir.records import Record
from graphopt.runtime.plan import Manifest


@dataclass(frozen=True)
class RpcTiming(Record):
    """What the child process brings back."""

    manifest: Manifest
    ms: tuple[float, ...]
    difference: float | None
    not_compared: str


@dataclass(frozen=True)
class Tuned(Record):
    """One way to compute a convolution, see `graphopt.codegen.kernels.conv.choice.KernelChoice`."""

    kernel: str
    tile: tuple[int, int, int]
    """Blocks of filters, pixels, pixels a side of a Winograd square (1: direct)."""
    work_group: int
    ms: float = 0.0
    """Measured milliseconds."""


@dataclass(frozen=True)
class Candidates(Record):
    """Ways to compute one convolution, the one that is taken unmeasured first.

    Args:
        key: the convolution, see `graphopt.codegen.kernels.conv.template.ConvSpec.key`.
        layer: a node that it is.
        count: layers of the network that are this convolution.
        bundle: a bundle whose launches are the candidates.
        choices: what they are.
    """

    key: str
    layer: str
    count: int
    bundle: Path
    choices: tuple[Tuned, ...]
