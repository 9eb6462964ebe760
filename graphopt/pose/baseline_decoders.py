"""Other ways from maps to people, to see what part affinity fields are worth.

Networks can say whose a key point is in other ways than by fields: by a number that is the same for
all parts of a person (associative embedding), or by pointing from a person's centre to the parts
(centre-offset regression). Here are the maps that perfect networks of either kind would make of
made-up people, and the decoders, in NumPy and SciPy as their authors' are. Peaks are found as
everywhere here, so that only the grouping differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.peaks import Peaks, find_peaks
from graphopt.pose.synthetic import HALF_WIDTH, draw_heat

FloatArray = NDArray[np.float32]

TAG_DISTANCE = 1.0
"""Between a key point's tag and a person's mean tag, above which it is not theirs."""
REACH = 2.0
"""From where a centre points to the peak that it means, in pixels of the maps, at most."""


def draw_tags(
    people: Sequence[NDArray[np.floating]],
    parts: int,
    size: tuple[int, int],
    noise: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Tag maps [parts, h, w]: around a person's part, the person's own number.

    Args:
        people: [parts, 2] in the maps' pixels; nan for a part that is not there.
        parts: of the skeleton.
        size: the maps' height and width.
        noise: standard deviation of what is added, as a part of the distance between two people.
        rng: where it comes from.
    """
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    tags = rng.normal(0, noise, (parts, *size))
    for part in range(parts):
        nearest = np.full(size, np.inf)
        for number, points in enumerate(people):
            distance = (x - points[part, 0]) ** 2 + (y - points[part, 1]) ** 2
            here = (distance < nearest) & (distance < (2 * HALF_WIDTH) ** 2)
            tags[part][here] += 2 * TAG_DISTANCE * number - tags[part][here].round()
            nearest = np.where(here, distance, nearest)
    return tags.astype(np.float32)


def by_tags(heat: FloatArray, tags: FloatArray, options: DecodeOptions) -> FloatArray:
    """People [n, parts, 3] from heat maps and tag maps [parts, h, w], in the maps' pixels.

    Part by part, peaks go to the people with the nearest mean tag, by the assignment that costs
    least; who is left over begins a new person (Newell, Huang and Deng, "Associative Embedding",
    NeurIPS 2017, section 3.2).
    """
    peaks = find_peaks(heat, options)
    tag = _read(tags, peaks)
    people = np.zeros((0, len(heat), 3), np.float32)
    sums, counts = np.zeros(0), np.zeros(0)
    for part in range(len(heat)):
        here = np.flatnonzero(peaks.part == part)
        here = here[np.argsort(-peaks.score[here], kind="stable")]
        distance = np.abs(tag[here][:, None] - sums / np.maximum(counts, 1))
        cost = 100 * distance.round() - peaks.score[here][:, None]
        rows, columns = scipy.optimize.linear_sum_assignment(cost)
        close = distance[rows, columns] < TAG_DISTANCE
        owner = np.full(len(here), -1)
        owner[rows[close]] = columns[close]
        new = np.flatnonzero(owner < 0)
        owner[new] = len(people) + np.arange(len(new))
        people = np.concatenate([people, np.zeros((len(new), len(heat), 3), np.float32)])
        sums, counts = (np.concatenate([v, np.zeros(len(new))]) for v in (sums, counts))
        people[owner, part, :2] = peaks.position[here]
        people[owner, part, 2] = peaks.score[here]
        np.add.at(sums, owner, tag[here])
        np.add.at(counts, owner, 1)
    return people[counts >= options.min_parts]


def draw_offsets(
    people: Sequence[NDArray[np.floating]],
    parts: int,
    size: tuple[int, int],
    noise: float,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """The centres' heat map [1, h, w], and where they point, [parts, 2, h, w].

    Args: as those of `draw_tags`; `noise` is added to the heat map, and in pixels to the offsets.
    """
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    centres = [np.nanmean(points, axis=0)[None] for points in people]
    centre = draw_heat(centres, 1, size) + rng.normal(0, noise, (1, *size))
    offsets = rng.normal(0, noise, (parts, 2, *size))
    nearest = np.full(size, np.inf)
    for points, ((left, top),) in zip(people, centres, strict=True):
        distance = (x - left) ** 2 + (y - top) ** 2
        here = distance < nearest
        nearest = np.where(here, distance, nearest)
        for part, (to_x, to_y) in enumerate(np.nan_to_num(points, nan=-1e3)):
            offsets[part, 0][here] = to_x - x[here] + rng.normal(0, noise, here.sum())
            offsets[part, 1][here] = to_y - y[here] + rng.normal(0, noise, here.sum())
    return centre.astype(np.float32), offsets.astype(np.float32)


def by_centres(
    heat: FloatArray, centre: FloatArray, offsets: FloatArray, options: DecodeOptions
) -> FloatArray:
    """People [n, parts, 3] from heat maps, centres and offsets, in the maps' pixels.

    Each centre points to its parts, and each part is moved to the nearest peak of its heat map
    (Zhou, Wang and Krähenbühl, "Objects as Points", 2019, section 5.2).
    """
    peaks = find_peaks(heat, options)
    middle = find_peaks(centre, options)
    column, row = middle.position.round().astype(int).T
    pointed = offsets[:, :, row, column].transpose(2, 0, 1) + np.stack([column, row], 1)[:, None]
    people = np.zeros((len(middle.part), len(heat), 3), np.float32)
    for part in range(len(heat)):
        here = np.flatnonzero(peaks.part == part)
        if not len(here) or not len(people):
            continue
        away = np.linalg.norm(pointed[:, part, None] - peaks.position[here], axis=2)
        nearest = away.argmin(axis=1)
        found = np.flatnonzero(away[np.arange(len(people)), nearest] < REACH)
        chosen = here[nearest[found]]
        people[found, part, :2] = peaks.position[chosen]
        people[found, part, 2] = peaks.score[chosen]
    enough: NDArray[np.bool_] = (people[..., 2] > 0).sum(axis=1) >= options.min_parts
    return people[enough]


def _read(maps: FloatArray, peaks: Peaks) -> FloatArray:
    """A map's value at each peak of its part."""
    column, row = peaks.position.round().astype(int).T
    value: FloatArray = maps[peaks.part, row, column]
    return value
