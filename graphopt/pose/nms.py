"""Non-maximum suppression: bounded, and in a fixed order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def suppress(
    boxes: FloatArray, scores: FloatArray, *, overlap: float, most: int
) -> NDArray[np.int64]:
    """Places of the boxes that are kept, best first; equal scores in the order of the boxes.

    A box goes where a better one that is kept overlaps it by more than `overlap`.

    Args:
        boxes: [n, 4]: left, top, right, bottom.
        scores: [n].
        overlap: intersection over union.
        most: boxes that are kept at most.
    """
    order = np.argsort(-scores, kind="stable")
    left, top, right, bottom = boxes[order].T.astype(np.float64)
    area = (right - left) * (bottom - top)
    alive = np.ones(len(order), bool)
    kept: list[int] = []
    for place in range(len(order)):
        if not alive[place]:
            continue
        kept.append(place)
        if len(kept) == most:
            break
        behind = slice(place + 1, None)
        width = np.minimum(right[place], right[behind]) - np.maximum(left[place], left[behind])
        height = np.minimum(bottom[place], bottom[behind]) - np.maximum(top[place], top[behind])
        common = width.clip(0) * height.clip(0)
        union = area[place] + area[behind] - common
        alive[behind] &= ~(common > overlap * union)
    return order[kept]
