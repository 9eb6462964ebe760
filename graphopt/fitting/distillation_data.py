"""What a network is trained on: crops of photos, and what the original makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from graphopt.fitting.calibration import Calibration
from graphopt.ir.arrays import Array
from graphopt.pose.preprocess import prepare
from graphopt.runtime.engine import Engine

CROP_SCALES = (0.75, 1.33)
"""How much smaller or larger people may be than they are at the network's usual height."""


class DistillationBatch(NamedTuple):
    """Inputs and the outputs that they should have."""

    x: Array
    """[N,3,H,W]"""
    targets: Mapping[str, Array]
    """[N,…] by the output's name."""


@dataclass(frozen=True)
class DistillationData:
    """A pool of crops, each made when it is first drawn, and kept: the original is not run again.

    The same seed gives the same batches, wherever one begins.

    Args:
        teacher: the original network.
        calibration: the photos; nothing is drawn from its held-out ones but by `held_out`.
        batch: crops in a batch.
        crop: their height and width, where the network takes any size.
        pool: how many different crops there are; each takes a quarter of a megabyte. Where crops
            come back a dozen times, they are learnt by heart.
        seed: of crops and of batches.
    """

    teacher: Engine
    calibration: Calibration
    batch: int
    crop: int
    pool: int
    seed: int
    _made: dict[int, DistillationBatch] = field(default_factory=dict)

    def __getitem__(self, step: int) -> DistillationBatch:
        """The batch for a step of training."""
        drawn = np.random.default_rng((self.seed, step)).choice(self.pool, self.batch)
        return _together([self._crop(int(index)) for index in drawn])

    def held_out(self, count: int) -> list[DistillationBatch]:
        """Crops of photos that nothing is trained on, one by one."""
        rng = np.random.default_rng(self.seed + 1)
        return [self._sample(image, rng) for image in self.calibration.held_out[:count]]

    def _crop(self, index: int) -> DistillationBatch:
        if index not in self._made:
            rng = np.random.default_rng((self.seed, self.batch, index))
            image = self.calibration.fitting[int(rng.integers(len(self.calibration.fitting)))]
            x, targets = self._sample(image, rng)
            small = {name: _small(values) for name, values in targets.items()}
            self._made[index] = DistillationBatch(_small(x), small)
        return self._made[index]

    def _sample(self, image: Path | int, rng: np.random.Generator) -> DistillationBatch:
        x = self._input(image, rng)
        return DistillationBatch(x, self.teacher.run({self.calibration.input: x}))

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
        scale = max(scale, side / min(photo.size))
        size = (max(side, round(photo.width * scale)), max(side, round(photo.height * scale)))
        photo = photo.resize(size, Image.Resampling.BICUBIC)
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in size)
        part = photo.crop((left, top, left + side, top + side))
        return prepare(part, preprocess, (side, side))[0]


def _small(values: Array) -> Array:
    """The same in bytes, if they hold it, or in half precision, which is finer than pixels are."""
    with np.errstate(all="ignore"):
        whole, half = values.astype(np.uint8), values.astype(np.float16)
    if (whole == values).all():
        return whole
    return half if np.isfinite(half).all() else values


def _together(batches: Sequence[DistillationBatch]) -> DistillationBatch:
    return DistillationBatch(
        np.concatenate([batch.x for batch in batches]).astype(np.float32),
        {
            name: np.concatenate([batch.targets[name] for batch in batches]).astype(np.float32)
            for name in batches[0].targets
        },
    )
