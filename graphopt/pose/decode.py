"""From heat maps and part affinity fields (PAFs) to people: the reference for post-processing.

The method is Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields"
(CVPR 2017, sections 2.2 to 2.4), with the thresholds of Lightweight OpenPose (Osokin, arXiv
1811.12004; modules/keypoints.py). It is defined without upsampled maps, so that a kernel can follow
it from the network's own output, a step at a time:

1. **Peaks** (`find_peaks`). A heat map's pixel is a peak of its part if it is above
   `peak_threshold`, greater than its four neighbours that come earlier in raster order, and at
   least as great as its four neighbours that come later. Outside the map is minus infinity. Peaks
   of a part come in raster order; of more than `max_peaks` those with the greatest score (step 2)
   are kept, of equal ones the first.
2. **Sub-pixel position and score** (`refine`). The map is continued between its pixels by cubic
   convolution with a = -0.75 (Keys, IEEE Trans. ASSP 29, 1981; OpenCV's INTER_CUBIC), the border
   replicated, and sampled every quarter of a pixel up to one pixel around the peak: 9 x 9 samples
   from 5 x 5 pixels. The greatest sample (the first of equals in raster order) is the score; a
   parabola through it and its two neighbours along each axis gives the position, which is then
   clamped to the map's pixel centres.
3. **Limb scores** (`score_limbs`). For each limb and each pair of its parts' peaks: the mean over
   `samples` evenly spaced points from one peak to the other, both ends included, of the PAF's
   projection on the direction between them; the PAF is interpolated bilinearly, clamped at the
   border. Beside it stands the share of these points where the projection exceeds `paf_threshold`.
4. **Assignment** (`assign_limbs`). A limb at a time, among pairs with a positive score and a share
   above `min_support`: the best first, each peak in one pair at most. Ties go to the pair whose
   peaks come first.
5. **People** (`group_people`). Every peak begins as a fragment of its own. The pairs of all limbs,
   best first, bridges last (ties: by limb, then by peaks), join the two fragments of their ends
   unless these have a part in common; a bridge does not join two single peaks. A person's score is
   the sum of their peaks' and pairs' scores over the number of parts and limbs of the skeleton:
   0..1, and higher for people who are seen more completely. People with fewer than `min_parts`
   parts or a score below `min_score` are left out; of more than `max_people` the best are kept.

Coordinates are those of pixel centres: the centre of a map's first pixel is (0, 0). Peaks are in
pixels of the maps, people in pixels of the photo. Everything is float32 and deterministic.

The fused decoder (`graphopt.pose.kernel_decoder`) has kernels for all five steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graphopt.pose.preprocess import Placement
from graphopt.pose.skeleton import Skeleton
from graphopt.pose.spec import PoseSpec

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


@dataclass(frozen=True)
class Peaks:
    """Part candidates, by part, then in raster order."""

    part: IntArray
    """[n]: places in the skeleton."""
    position: FloatArray
    """[n, 2]: x and y in pixels of the maps."""
    score: FloatArray
    """[n]."""
    dropped: tuple[int, ...] = ()
    """Parts that had more than `max_peaks` candidates."""
    finite: bool = True
    """Whether all values of the heat maps are finite numbers; others count as 0."""


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


@dataclass(frozen=True)
class Person:
    """Somebody in a photo."""

    keypoints: FloatArray
    """[parts, 3]: x and y in pixels of the photo, and score; all zero for a part not found."""
    score: float
    """0..1."""
    identity: int | None = None
    """The same number for the same person in all frames of a video, where that was asked for."""


@dataclass(frozen=True)
class Poses:
    """The people in a photo, best first."""

    people: tuple[Person, ...]
    warnings: tuple[str, ...] = ()
    """What a user should know: limits that were exceeded, maps that are not finite."""


def decode(
    outputs: Mapping[str, NDArray[np.generic]],
    spec: PoseSpec,
    placement: Placement,
    options: DecodeOptions | None = None,
) -> Poses:
    """The people in a network's outputs for one photo.

    Args:
        outputs: the network's outputs by name, batch of one.
        spec: where the maps are among them, and the skeleton. Without PAFs: one person at most.
        placement: where the photo lies in the network's input.
        options: thresholds and limits.
    """
    options = options or DecodeOptions()
    peaks, pairs = detect(outputs, spec, options)
    if pairs is None:
        people = decode_single_person(peaks, spec.skeleton, options)
    else:
        people = group_people(peaks, pairs, spec.skeleton, options)
    return answer(people, peaks, spec, placement, options)


def answer(
    people: Sequence[Person],
    peaks: Peaks,
    spec: PoseSpec,
    placement: Placement,
    options: DecodeOptions,
) -> Poses:
    """People whose key points are in pixels of the maps, as the answer for a photo."""
    keypoints = np.zeros((len(people), len(spec.skeleton.parts), 3), np.float32)
    for row, person in zip(keypoints, people, strict=True):
        row[:] = person.keypoints
    limit = options.max_people
    return Poses(
        on_photo(keypoints[:limit], [p.score for p in people[:limit]], spec, placement),
        warnings(spec, options, dropped=peaks.dropped, finite=peaks.finite, people=len(people)),
    )


def detect(
    outputs: Mapping[str, NDArray[np.generic]], spec: PoseSpec, options: DecodeOptions
) -> tuple[Peaks, Pairs | None]:
    """Steps 1 to 4: peaks and limbs in a network's outputs.

    One without PAFs has no limbs, and one peak a part at most.
    """
    heat = spec.heat.of(outputs)[: len(spec.skeleton.parts)]
    finite = bool(np.isfinite(heat).all())
    if not finite:
        heat = np.nan_to_num(heat, nan=0.0, posinf=0.0, neginf=0.0)
    if spec.paf is None:
        return replace(find_maxima(heat, options), finite=finite), None
    peaks = replace(find_peaks(heat, options), finite=finite)
    scored = score_limbs(spec.paf.of(outputs), peaks, spec.skeleton, options)
    return peaks, assign_limbs(scored, options)


def on_photo(
    keypoints: FloatArray, scores: Sequence[float], spec: PoseSpec, placement: Placement
) -> tuple[Person, ...]:
    """People whose key points [n, parts, 3] are in pixels of the maps, in pixels of the photo."""
    points = placement.to_photo((keypoints[..., :2] + 0.5) * spec.stride - 0.5)
    placed = keypoints.copy()
    placed[..., :2] = np.where(keypoints[..., 2:] > 0, points, keypoints[..., :2])
    return tuple(map(Person, placed, scores))


def warnings(
    spec: PoseSpec, options: DecodeOptions, *, dropped: Sequence[int], finite: bool, people: int
) -> tuple[str, ...]:
    """What a user should know.

    Args:
        spec, options: what was decoded with.
        dropped: parts with too many peaks.
        finite: whether all values of the heat maps were finite numbers.
        people: how many were found.
    """
    said = []
    if not finite:
        said.append("the heat maps hold values that are not finite; they count as 0")
    said += [
        f"more than {options.max_peaks} candidates for {spec.skeleton.parts[part].name}; "
        "the weakest were left out"
        for part in dropped
    ]
    if people > options.max_people:
        said.append(f"more than {options.max_people} people; the weakest were left out")
    return tuple(said)


def find_peaks(heat: FloatArray, options: DecodeOptions) -> Peaks:
    """Steps 1 and 2: the local maxima of heat maps [parts, h, w], at sub-pixel positions."""
    bordered = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = heat.shape[1:]
    is_peak = heat > options.peak_threshold
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        neighbour = bordered[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        is_peak &= heat > neighbour if (dy, dx) < (0, 0) else heat >= neighbour
    part, y, x = np.nonzero(is_peak)
    position, score = refine(heat, part, y, x)
    rank = np.empty_like(part)
    rank[np.lexsort((-score, part))] = np.arange(len(part))
    kept = rank - np.searchsorted(part, part) < options.max_peaks
    return Peaks(part[kept], position[kept], score[kept], tuple(np.unique(part[~kept]).tolist()))


def find_maxima(heat: FloatArray, options: DecodeOptions) -> Peaks:
    """The greatest pixel of each heat map [parts, h, w] that exceeds the threshold, refined."""
    parts, height, width = heat.shape
    y, x = np.divmod(heat.reshape(parts, height * width).argmax(axis=1), width)
    part = np.flatnonzero(heat[np.arange(parts), y, x] > options.peak_threshold)
    return Peaks(part, *refine(heat, part, y[part], x[part]))


def cubic(distance: NDArray[np.floating]) -> NDArray[np.floating]:
    """The cubic convolution kernel with a = -0.75 (Keys 1981, equation 15)."""
    a, d = -0.75, np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


STEPS = 4
"""Samples to a pixel around a peak."""
_OFFSETS = np.arange(-STEPS, STEPS + 1) / STEPS
REFINE: FloatArray = cubic(_OFFSETS[:, None] - np.arange(-2, 3)).astype(np.float32)
"""[9, 5]: a row of five pixels around a peak -> the nine samples from -1 to 1 pixel around it."""


def refine(
    heat: FloatArray, part: IntArray, y: IntArray, x: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Step 2: positions [n, 2] (x, y) and scores [n] of the maxima of heat maps near pixels."""
    _, height, width = heat.shape
    around = np.arange(-2, 3)
    rows = np.clip(y[:, None] + around, 0, height - 1)
    columns = np.clip(x[:, None] + around, 0, width - 1)
    patch = heat[part[:, None, None], rows[:, :, None], columns[:, None, :]]
    values = REFINE @ (patch @ REFINE.T)
    side = len(_OFFSETS)
    row, column = np.divmod(values.reshape(-1, side * side).argmax(axis=1), side)
    n = np.arange(len(part))
    score = values[n, row, column]
    last = side - 1
    vertical = _vertex(
        values[n, np.maximum(row - 1, 0), column],
        score,
        values[n, np.minimum(row + 1, last), column],
    )
    horizontal = _vertex(
        values[n, row, np.maximum(column - 1, 0)],
        score,
        values[n, row, np.minimum(column + 1, last)],
    )
    position = np.stack(
        [
            np.clip(x + _OFFSETS[column] + horizontal / STEPS, 0, width - 1),
            np.clip(y + _OFFSETS[row] + vertical / STEPS, 0, height - 1),
        ],
        axis=1,
    )
    return position.astype(np.float32), score


def _vertex(before: FloatArray, at: FloatArray, after: FloatArray) -> FloatArray:
    """Where the parabola through three values, the greatest one in the middle, peaks: -0.5..0.5."""
    curvature = before - 2 * at + after
    bent = curvature < 0
    offset: FloatArray = np.where(bent, 0.5 * (before - after) / np.where(bent, curvature, -1), 0)
    return np.clip(offset, -0.5, 0.5)


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


def group_people(
    peaks: Peaks, pairs: Pairs, skeleton: Skeleton, options: DecodeOptions
) -> list[Person]:
    """Step 5: people whose key points are still in pixels of the maps, best first."""
    limbs = skeleton.paf_limbs
    bridge = np.array([limb.bridge for limb in limbs], bool)[pairs.limb]
    owner = list(range(len(peaks.part)))
    members = [{int(part): peak} for peak, part in enumerate(peaks.part)]
    total = peaks.score.tolist()
    order = np.lexsort((pairs.end, pairs.start, pairs.limb, -pairs.score, bridge))
    for pair in order.tolist():
        a, b = owner[pairs.start[pair]], owner[pairs.end[pair]]
        if a == b:
            total[a] += float(pairs.score[pair])
        elif not (bridge[pair] and len(members[a]) == len(members[b]) == 1) and (
            members[a].keys().isdisjoint(members[b])
        ):
            total[a] += total[b] + float(pairs.score[pair])
            members[a] |= members[b]
            for peak in members[b].values():
                owner[peak] = a
    people = []
    for fragment in sorted(set(owner)):
        score = total[fragment] / (len(skeleton.parts) + len(limbs))
        if len(members[fragment]) >= options.min_parts and score >= options.min_score:
            parts, found = list(members[fragment]), list(members[fragment].values())
            keypoints = np.zeros((len(skeleton.parts), 3), np.float32)
            keypoints[parts, :2] = peaks.position[found]
            keypoints[parts, 2] = peaks.score[found]
            people.append(Person(keypoints, score))
    return sorted(people, key=lambda person: -person.score)


def decode_single_person(peaks: Peaks, skeleton: Skeleton, options: DecodeOptions) -> list[Person]:
    """The one person of a network without PAFs, if any; key points still in pixels of the maps.

    The score is the mean of all parts' scores, 0 for a part that was not found.
    """
    keypoints = np.zeros((len(skeleton.parts), 3), np.float32)
    keypoints[peaks.part, :2] = peaks.position
    keypoints[peaks.part, 2] = peaks.score
    person = Person(keypoints, float(keypoints[:, 2].mean()))
    enough = len(peaks.part) >= options.min_parts and person.score >= options.min_score
    return [person] if enough else []
