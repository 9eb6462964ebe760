"""What training against the original may be told, and what it reports."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DistillOptions:
    """How long and how carefully to train.

    Args:
        steps: batches to train on.
        batch: crops in a batch.
        crop: height and width of a crop, where the network takes any size.
        rate: the learning rate before each layer's own scale, see the module's text.
        warm_up: steps over which the rate rises from zero; from half of all steps on it falls.
        check_every: steps between two looks at the held-out crops.
        patience: looks without improvement after which training stops, in its second half.
        seed: of crops.
        precision: see `Precision`.
        device: see `TrainDevice`.
        averaging: of the averaged weights, the part that stays after a step; they are what is
            judged and kept. 0 averages nothing.
    """

    steps: int = 600
    batch: int = 8
    crop: int = 224
    rate: float = 3e-4
    warm_up: int = 20
    check_every: int = 50
    patience: int = 6
    seed: int = 0
    precision: Precision = "auto"
    device: TrainDevice = "cpu"
    averaging: float = 0.98

    @property
    def bfloat16(self) -> bool:
        """Whether training computes in bfloat16 on this device."""
        native = self.device == "cuda"
        if self.device == "cpu":
            # Here: the command line reads these options, and needs no numpy for that.
            from graphopt.runtime.cpu import cpu_features

            native = bool(cpu_features() & BFLOAT16_FEATURES)
        return self.precision == "bfloat16" or (self.precision == "auto" and native)


def leads() -> bool:
    """Whether this is the only process, or the first of those that `torchrun` started."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


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
"""What training computes in; auto is bfloat16 on GPUs of NVIDIA's, and where the CPU has it."""

TrainDevice = Literal["cpu", "cuda", "mps"]
"""What training runs on, as PyTorch calls it: the CPU, GPUs of NVIDIA's or AMD's, Apple's GPU."""


BFLOAT16_FEATURES = {"avx512_bf16", "amx_bf16"}
