"""What decoding may be told: thresholds and limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class DecodeOptions:
    """The decoder's numbers; the defaults are Lightweight OpenPose's where it has them."""

    peak_threshold: float = 0.1
    """Least value of a heat map's pixel that can be a peak."""
    samples: int = 10
    """Points along a limb at which the PAF is read."""
    paf_threshold: float = 0.05
    """Least projection on a limb's direction at which a point supports the limb."""
    min_support: float = 0.8
    """A limb needs more than this share of supporting points."""
    min_parts: int = 3
    """Least number of parts of a person."""
    min_score: float = 0.0
    """Least score of a person, 0..1."""
    max_peaks: int = 128
    """Most peaks of one part; of more the best are kept, and the result says so."""
    max_people: int = 128
    """Most people; of more the best are kept, and the result says so."""
