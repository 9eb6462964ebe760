"""Arrays, and what their shapes say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.generic]
Floats: TypeAlias = NDArray[np.float64]
Feeds: TypeAlias = Mapping[str, Array]
"""Arrays by the names of a network's inputs or outputs."""
Shape: TypeAlias = tuple[int | None, ...]
"""A tensor's extents; None where any extent will do."""

_COLOURS = (1, 3, 4)
"""Channels of pictures: grey, colours, colours and a mask."""


def channels_last(shape: Sequence[int | str | None]) -> bool:
    """Whether a tensor of this shape is a picture as TensorFlow lays it out: [N,H,W,C]."""
    return len(shape) == 4 and shape[3] in _COLOURS and shape[1] not in _COLOURS


def has_colours(shape: Sequence[int | str | None]) -> bool:
    """Whether a tensor of this shape can be a picture, [N,C,H,W] or [N,H,W,C]."""
    return len(shape) == 4 and (shape[1] in _COLOURS or shape[3] in _COLOURS)


Dim: TypeAlias = int | str | None
"""An extent: a number, the name of a dynamic dimension, or unknown."""
