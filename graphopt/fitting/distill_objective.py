"""What a student's errors count in training against the original."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.ir.arrays import Array
from graphopt.runtime.differences import floored_variance


def channel_weights(targets: Array, importance: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a squared error counts, to be broadcast to targets [N,C,H,W]: in the mean over them.

    An error of a channel is relative to its variance; else the background's heat map, with its
    large values, would outweigh those of all parts.

    Args:
        targets: what outputs should be.
        importance: of each channel [C].
    """
    axes = tuple(axis for axis in range(targets.ndim) if axis != 1)
    variance = floored_variance(targets.var(axis=axes, keepdims=True, dtype=np.float64)) + 1e-12
    return np.asarray(importance.reshape(variance.shape) * len(importance) / variance, np.float32)
