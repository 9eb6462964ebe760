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

from graphopt.pose.decode_options import DecodeOptions, FloatArray
from graphopt.pose.limbs import Pairs, assign_limbs, score_limbs
from graphopt.pose.peaks import Peaks, find_maxima, find_peaks
from graphopt.pose.preprocess import Placement
from graphopt.pose.skeleton import Skeleton
from graphopt.pose.spec import PoseSpec


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
