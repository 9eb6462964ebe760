"""What a network is trained on: crops of photos, and what the original makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from graphopt.fitting.calibration import Calibration
from graphopt.ir.arrays import Array
from graphopt.pose.preprocess import prepare

CROP_SCALES = (0.75, 1.33)
"""How much smaller or larger people may be than they are at the network's usual height."""


class DistillationBatch(NamedTuple):
    """Inputs and the outputs that they should have."""

    x: Array
    """[N,3,H,W]"""
    targets: Mapping[str, Array]
    """[N,…] by the output's name."""


class AnswersBatches(Protocol):
    """A teacher."""

    def __call__(self, x: Array, *, bfloat16: bool = False) -> Mapping[str, Array]:
        """The outputs for inputs [N,3,H,W], by name."""
        ...


@dataclass(frozen=True)
class DistillationData:
    """Crops that are drawn anew for every step: none comes back, so that none is learnt by heart.

    The same seed gives the same batches, wherever one begins, and however many processes share one.

    Args:
        teacher: the original network.
        calibration: the photos; nothing is drawn from its held-out ones but by `held_out`.
        batch: crops in a batch.
        crop: their height and width, where the network takes any size.
        seed: of crops.
        bfloat16: whether the teacher answers in it; for held-out crops it never does.
        share: which of how many processes this is; each has every so-many-th crop of a batch.
    """

    teacher: AnswersBatches
    calibration: Calibration
    batch: int
    crop: int
    seed: int
    bfloat16: bool = False
    share: tuple[int, int] = (0, 1)

    def __getitem__(self, step: int) -> DistillationBatch:
        """This process's part of the batch for a step of training."""
        which, processes = self.share
        crops = []
        for index in range(which, self.batch, processes):
            rng = np.random.default_rng((self.seed, step, index))
            image = self.calibration.fitting[int(rng.integers(len(self.calibration.fitting)))]
            crops.append(self._input(image, rng))
        x = np.concatenate(crops)
        return DistillationBatch(x, self.teacher(x, bfloat16=self.bfloat16))

    def held_out(self, count: int) -> list[DistillationBatch]:
        """Crops of photos that nothing is trained on, one by one."""
        rng = np.random.default_rng(self.seed + 1)
        crops = [self._input(image, rng) for image in self.calibration.held_out[:count]]
        return [DistillationBatch(x, self.teacher(x)) for x in crops]

    def _input(self, image: Path | int, rng: np.random.Generator) -> NDArray[np.float32]:
        """A random part of a photo at a random scale, perhaps mirrored, as an input [1,3,H,W]."""
        photo = self.calibration.picture(image)
        preprocess, shape = self.calibration.spec.preprocess, self.calibration.shape
        if rng.random() < 0.5:
            photo = ImageOps.mirror(photo)
        if None not in shape:
            return prepare(photo, preprocess, shape)[0]
        side = math.ceil(self.crop / preprocess.multiple) * preprocess.multiple
        scale = preprocess.height * rng.uniform(*CROP_SCALES) / photo.height
        # Of the photo only what is needed is resized.
        extent = min(side / scale, *photo.size)
        left, top = (rng.uniform(0, length - extent) for length in photo.size)
        box = (left, top, left + extent, top + extent)
        part = photo.resize((side, side), Image.Resampling.BICUBIC, box=box)
        return prepare(part, preprocess, (side, side))[0]
