"""What training against the original may be told, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphopt.runtime.cpu import cpu_features


@dataclass(frozen=True)
class DistillOptions:
    """How long and how carefully to train.

    Args:
        steps: batches to train on.
        batch: crops in a batch.
        crop: height and width of a crop, where the network takes any size.
        rate: the learning rate before each layer's own scale, see the module's text.
        warm_up: steps over which the rate rises from zero.
        pool: how many crops there are to draw batches from; see `DistillationData`.
        check_every: steps between two looks at the held-out crops.
        patience: looks without improvement after which training stops, in its second half.
        seed: of crops and batches.
        precision: see `Precision`.
    """

    steps: int = 600
    batch: int = 8
    crop: int = 224
    rate: float = 7e-4
    warm_up: int = 60
    pool: int = 8192
    check_every: int = 50
    patience: int = 6
    seed: int = 0
    precision: Precision = "auto"

    @property
    def bfloat16(self) -> bool:
        """Whether dense layers multiply bfloat16 on this CPU."""
        native = bool(cpu_features() & BFLOAT16_FEATURES)
        return self.precision == "bfloat16" or (self.precision == "auto" and native)


@dataclass(frozen=True)
class DistillReport:
    """What came of training.

    Errors are mean squared differences from the original's outputs on held-out crops, each channel
    relative to its variance; what a decoder does not read counts nothing (`PoseSpec.importance`).
    """

    before: float
    after: float
    steps: int
    seconds: float
    stopped_early: bool


Precision = Literal["auto", "float32", "bfloat16"]
"""What dense layers multiply while they are trained; auto is bfloat16 where the CPU has it."""


BFLOAT16_FEATURES = {"avx512_bf16", "amx_bf16"}
