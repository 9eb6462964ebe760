"""From a photo to a network's input tensor, and the way back for coordinates.

Coordinates are those of pixel centres everywhere: the centre of the first pixel is (0, 0), so that
a picture of width w reaches from -0.5 to w - 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graphopt.pose.spec import Preprocess

MAX_ASPECT = 8
"""A photo that is wider than this many times its height is scaled to this width instead, so that a
strip of pixels does not become an input that no memory holds."""


@dataclass(frozen=True)
class Placement:
    """Where a photo lies in the network's input: input = (photo + 0.5) * scale - 0.5 + offset."""

    scale: tuple[float, float]
    """Input pixels to a photo's pixel, along x and y."""
    offset: tuple[int, int]
    """The photo's first column and row in the input."""

    def to_photo(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Input coordinates [..., 2] (x, y) as photo coordinates."""
        return (points - self.offset + 0.5) / self.scale - 0.5

    def to_input(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Photo coordinates [..., 2] (x, y) as input coordinates."""
        return (points + 0.5) * self.scale - 0.5 + self.offset


AS_IT_IS = Placement(scale=(1.0, 1.0), offset=(0, 0))
"""The photo is the input."""


def prepare(
    photo: Image.Image,
    preprocess: Preprocess,
    shape: Sequence[int | None] = (None, None),
    *,
    height: int | None = None,
) -> tuple[NDArray[np.float32], Placement]:
    """Scale a photo with its aspect kept, pad it and normalise it.

    Where the network's input is free, this is the validation of Lightweight OpenPose (Osokin,
    arXiv 1811.12004; val.py): `height` rows, the width that follows from the aspect, padded to at
    least the height and to a multiple of `preprocess.multiple`. Where it is fixed, the photo is
    scaled to fit into it. Either way it is padded evenly on both sides, and Pillow's bicubic filter
    scales it, which takes in every pixel where it shrinks (OpenCV's skips some).

    Args:
        photo: an RGB image.
        preprocess: colour order, normalisation and border of the network.
        shape: the input's height and width, None where any will do.
        height: rows for a free input; `preprocess.height` by default.

    Returns:
        The input, float32 [1,3,H,W] and contiguous, and where the photo lies in it.
    """
    rows, columns = shape
    wanted = rows or height or preprocess.height
    if columns is None:
        scale = min(wanted / photo.height, MAX_ASPECT * wanted / photo.width)
    else:
        scale = min(columns / photo.width, rows / photo.height if rows else math.inf)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))

    def padded(extent: int) -> int:
        return math.ceil(extent / preprocess.multiple) * preprocess.multiple

    canvas = (columns or padded(max(size[0], wanted)), rows or padded(size[1]))
    offset = ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2)

    resized = photo.resize(size, Image.Resampling.BICUBIC)
    pixels = np.full((3, canvas[1], canvas[0]), preprocess.pad_value, np.float32)
    order = [0, 1, 2] if preprocess.color == "rgb" else [2, 1, 0]
    inside = pixels[:, offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]]
    inside[...] = np.asarray(resized).transpose(2, 0, 1)[order]
    mean = np.array(preprocess.mean, np.float32)[:, None, None]
    factor = np.array(preprocess.scale, np.float32)[:, None, None]
    placement = Placement(scale=(size[0] / photo.width, size[1] / photo.height), offset=offset)
    return ((pixels - mean) * factor)[None], placement
