"""How alike two people are, and how far two sets of people of one photo are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from graphopt.pose.decode import Person
from graphopt.pose.skeleton import COCO_PARTS, Skeleton

# fmt: off
COCO_SIGMAS = np.array([
    .026, .025, .025, .035, .035, .079, .079, .072, .072,
    .062, .062, .107, .107, .087, .087, .089, .089,
])
# fmt: on
"""Deviation of human annotators, by COCO key point, as a share of the person's scale
(cocodataset.org, Keypoint Evaluation, section 1.3)."""

OTHER_SIGMA = 0.079
"""For parts that COCO does not have: that of a shoulder."""


@dataclass(frozen=True)
class PoseShift:
    """What became of people when a network was changed."""

    matched: int
    lost: int
    """People of the first set without a counterpart."""
    added: int
    """People of the second set without a counterpart."""
    mean_pixels: float
    """Mean distance of the key points that both of a pair have; 0 without any."""
    max_pixels: float
    parts_lost: int
    """Key points that only the first of a pair has."""
    parts_added: int


def pose_shift(
    before: Sequence[Person], after: Sequence[Person], skeleton: Skeleton, *, min_oks: float = 0.5
) -> PoseShift:
    """Match two sets of people of one photo and measure how far their key points moved.

    Pairs are those of `matched`.
    """
    pairs = matched(before, after, skeleton, min_oks=min_oks)
    distances: list[float] = []
    lost = added = 0
    for a, b in pairs:
        first, second = before[a].keypoints, after[b].keypoints
        seen_first, seen_second = first[:, 2] > 0, second[:, 2] > 0
        both = seen_first & seen_second
        distances += np.hypot(*(first[both, :2] - second[both, :2]).T).tolist()
        lost += int((seen_first & ~seen_second).sum())
        added += int((seen_second & ~seen_first).sum())
    return PoseShift(
        matched=len(pairs),
        lost=len(before) - len(pairs),
        added=len(after) - len(pairs),
        mean_pixels=float(np.mean(distances)) if distances else 0.0,
        max_pixels=max(distances, default=0.0),
        parts_lost=lost,
        parts_added=added,
    )


def matched(
    before: Sequence[Person], after: Sequence[Person], skeleton: Skeleton, *, min_oks: float
) -> list[tuple[int, int]]:
    """Which of two sets of people are the same, by their places.

    Pairs maximise the sum of object key-point similarity (OKS; cocodataset.org, Keypoint
    Evaluation), with the bounding box of the first one's key points as the scale; pairs below
    `min_oks` are no pairs.
    """
    similarity = np.array([[oks(a, b, skeleton) for b in after] for a in before])
    similarity = similarity.reshape(len(before), len(after))
    rows, columns = scipy.optimize.linear_sum_assignment(-similarity)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(a, b) for a, b in pairs if similarity[a, b] >= min_oks]


def oks(reference: Person, other: Person, skeleton: Skeleton) -> float:
    """Object key-point similarity, 0..1, over the parts that the reference has.

    Its scale is the area of the box around the reference's key points; a part that `other` lacks
    counts as 0.
    """
    seen = reference.keypoints[:, 2] > 0
    if not seen.any():
        return 0.0
    points = reference.keypoints[seen, :2].astype(np.float64)
    width, height = np.maximum(np.ptp(points, axis=0), 1.0)
    sigma = np.array(
        [
            COCO_SIGMAS[COCO_PARTS.index(part.coco)] if part.coco else OTHER_SIGMA
            for part in skeleton.parts
        ]
    )[seen]
    squared = ((points - other.keypoints[seen, :2]) ** 2).sum(axis=1)
    similarity = np.exp(-squared / (2 * width * height * (2 * sigma) ** 2))
    return float(np.where(other.keypoints[seen, 2] > 0, similarity, 0).mean())
