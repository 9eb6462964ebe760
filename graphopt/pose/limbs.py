"""Limbs from part affinity fields: pairs of candidates scored and chosen (steps 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.pose.decode_options import DecodeOptions, FloatArray, IntArray
from graphopt.pose.peaks import Peaks
from graphopt.pose.skeleton import Skeleton


@dataclass(frozen=True)
class Pairs:
    """Peaks that may be, or are, the two ends of a limb."""

    limb: IntArray
    """[n]: places among the skeleton's limbs that have PAFs."""
    start: IntArray
    """[n]: the peak at the limb's start."""
    end: IntArray
    """[n]: the peak at the limb's end."""
    score: FloatArray
    """[n]: mean projection of the PAF."""

    def take(self, which: IntArray) -> Pairs:
        """These pairs, in this order."""
        return Pairs(self.limb[which], self.start[which], self.end[which], self.score[which])


@dataclass(frozen=True)
class ScoredPairs(Pairs):
    """All pairs that could be limbs."""

    support: FloatArray
    """[n]: share of points whose projection exceeds the threshold."""


def score_limbs(
    paf: FloatArray, peaks: Peaks, skeleton: Skeleton, options: DecodeOptions
) -> ScoredPairs:
    """Step 3: every pair of peaks that could be a limb, by limb and peaks, for PAFs [c, h, w]."""
    first = np.searchsorted(peaks.part, np.arange(len(skeleton.parts) + 1))
    columns: list[tuple[IntArray, IntArray, IntArray]] = []
    for number, limb in enumerate(skeleton.paf_limbs):
        a, b = skeleton.ends(limb)
        start, end = np.meshgrid(
            np.arange(first[a], first[a + 1]), np.arange(first[b], first[b + 1]), indexing="ij"
        )
        columns.append((np.full(start.size, number), start.ravel(), end.ravel()))
    limb_of, start, end = (np.concatenate(column) for column in zip(*columns, strict=True))

    vector = peaks.position[end] - peaks.position[start]
    length = np.hypot(vector[:, 0], vector[:, 1])
    direction = vector / np.maximum(length, np.float32(1e-6))[:, None]
    along = np.linspace(0, 1, options.samples, dtype=np.float32)
    points = peaks.position[start][:, None] + vector[:, None] * along[:, None]
    channels = np.array([limb.paf for limb in skeleton.paf_limbs])[limb_of]
    projection = np.zeros(points.shape[:2], np.float32)
    for axis in (0, 1):
        field = _bilinear(paf, channels[:, axis, None], points[..., 0], points[..., 1])
        projection += field * direction[:, axis, None]
    return ScoredPairs(
        limb_of,
        start,
        end,
        score=projection.mean(axis=1),
        support=(projection > options.paf_threshold).mean(axis=1, dtype=np.float32),
    )


def _bilinear(maps: FloatArray, channel: IntArray, x: FloatArray, y: FloatArray) -> FloatArray:
    _, height, width = maps.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = x - left.astype(np.float32), y - top.astype(np.float32)
    upper = maps[channel, top, left] * (1 - fx) + maps[channel, top, right] * fx
    lower = maps[channel, bottom, left] * (1 - fx) + maps[channel, bottom, right] * fx
    value: FloatArray = upper * (1 - fy) + lower * fy
    return value


def assign_limbs(pairs: ScoredPairs, options: DecodeOptions) -> Pairs:
    """Step 4: the pairs that are limbs, by limb and falling score."""
    possible = np.flatnonzero((pairs.score > 0) & (pairs.support > options.min_support))
    keys = (pairs.end, pairs.start, -pairs.score, pairs.limb)
    order = possible[np.lexsort([key[possible] for key in keys])]
    taken: set[tuple[int, int]] = set()
    chosen = []
    for pair in order.tolist():
        limb = int(pairs.limb[pair])
        # A limb joins two different parts, so one set of (limb, peak) serves both ends.
        ends = {(limb, int(pairs.start[pair])), (limb, int(pairs.end[pair]))}
        if not ends & taken:
            taken |= ends
            chosen.append(pair)
    return pairs.take(np.array(chosen, np.int64))
