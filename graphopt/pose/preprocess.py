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

from graphopt.ir.arrays import Shape, channels_last
from graphopt.pose.images import as_rgb
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


IDENTITY = Placement(scale=(1.0, 1.0), offset=(0, 0))
"""The photo is the input."""


@dataclass(frozen=True)
class SizeFit:
    """A photo's place in a network's input; widths come before heights."""

    photo: tuple[int, int]
    """The photo's width and height."""
    size: tuple[int, int]
    """Width and height that the photo is scaled to."""
    canvas: tuple[int, int]
    """Width and height of the input that it is put in."""
    offset: tuple[int, int]
    """Where its first column and row are in the input."""

    @property
    def placement(self) -> Placement:
        """The same for coordinates."""
        (width, height), (columns, rows) = self.photo, self.size
        return Placement(scale=(columns / width, rows / height), offset=self.offset)


def fitted(
    photo: tuple[int, int],
    preprocess: Preprocess,
    shape: Sequence[int | None] = (None, None),
    *,
    height: int | None = None,
) -> SizeFit:
    """Where `prepare` puts a photo of a width and height; arguments as there."""
    rows, columns = shape
    wanted = rows or height or preprocess.height
    if columns is None:
        scale = min(wanted / photo[1], MAX_ASPECT * wanted / photo[0])
    else:
        scale = min(columns / photo[0], rows / photo[1] if rows else math.inf)
    size = (max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale)))

    def padded(extent: int) -> int:
        return math.ceil(extent / preprocess.multiple) * preprocess.multiple

    canvas = (columns or padded(max(size[0], wanted)), rows or padded(size[1]))
    offset = ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2)
    return SizeFit(photo, size, canvas, offset)


def extents(shape: Shape) -> Shape:
    """Height and width of an input's shape, [N,3,H,W] or [N,H,W,3]."""
    return shape[1:3] if channels_last(shape) else shape[2:]


def arranged(values: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """What `prepare` gives, [1,3,H,W], as an input of this shape takes it.

    Channels last where the input has them last; as often as the input takes pictures at once.
    """
    if channels_last(shape):
        values = np.moveaxis(values, 1, 3)
    return np.ascontiguousarray(np.repeat(values, shape[0] or 1, axis=0) if shape else values)


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
    scales it, which takes in every pixel where it shrinks (OpenCV's skips some). A bundle's kernels
    do the same (`graphopt.pose.resample`).

    Args:
        photo: of any mode (`as_rgb`).
        preprocess: colour order, normalisation and border of the network.
        shape: the input's height and width, None where any will do.
        height: rows for a free input; `preprocess.height` by default.

    Returns:
        The input, float32 [1,3,H,W] and contiguous, and where the photo lies in it.
    """
    photo = as_rgb(photo)
    fit = fitted(photo.size, preprocess, shape, height=height)
    (left, top), (columns, rows) = fit.offset, fit.size
    # Along rows first; at once, Pillow scales some tall photos along columns first.
    narrow = photo.resize((columns, photo.height), Image.Resampling.BICUBIC)
    resized = narrow.resize(fit.size, Image.Resampling.BICUBIC)
    pixels = np.full((3, *fit.canvas[::-1]), preprocess.pad_value, np.float32)
    order = [0, 1, 2] if preprocess.color == "rgb" else [2, 1, 0]
    inside = pixels[:, top : top + rows, left : left + columns]
    inside[...] = np.asarray(resized).transpose(2, 0, 1)[order]
    mean = np.array(preprocess.mean, np.float32)[:, None, None]
    factor = np.array(preprocess.scale, np.float32)[:, None, None]
    return ((pixels - mean) * factor)[None], fit.placement
