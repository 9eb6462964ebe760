"""Made-up crowds: people at known places, and the maps that a perfect network would make of them.

Heat maps are Gaussians, and fields are unit vectors in a band along each limb, averaged where
people overlap, as such networks are trained on (Cao et al., CVPR 2017, sections 2.2 and 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graphopt.pose.skeleton import Skeleton

SIGMA = 0.9
"""Deviation of the Gaussian around a part, in pixels of the maps."""
HALF_WIDTH = 1.2
"""Half the width of the band along a limb, in pixels of the maps."""

FloatArray = NDArray[np.floating]


def figure(skeleton: Skeleton, rng: np.random.Generator) -> FloatArray:
    """Somebody about one unit large, around the origin: [parts, 2] (x, y).

    Parts are laid out along the limbs, fanned out around each joint; `rng` bends the limbs a bit.
    """
    neighbours: dict[int, list[int]] = {part: [] for part in range(len(skeleton.parts))}
    for limb in skeleton.limbs:
        a, b = skeleton.ends(limb)
        neighbours[a].append(b)
        neighbours[b].append(a)
    points = np.full((len(skeleton.parts), 2), np.nan)
    for root in sorted(neighbours, key=lambda part: -len(neighbours[part])):
        if np.isfinite(points[root, 0]):
            continue
        points[root] = 0.0
        queue = [(root, 0.0, math.tau)]
        for part, heading, fan in queue:  # grows while it is walked
            children = [n for n in neighbours[part] if not np.isfinite(points[n, 0])]
            for i, child in enumerate(children):
                angle = heading + fan * ((i + 0.5) / len(children) - 0.5) + rng.normal(0, 0.1)
                length = 0.25 * rng.uniform(0.9, 1.1)
                points[child] = points[part] + (length * math.cos(angle), length * math.sin(angle))
                queue.append((child, angle, math.pi / 2))
    centred: FloatArray = points - points.mean(axis=0)
    return centred


def crowd(
    skeleton: Skeleton, count: int, size: tuple[int, int], rng: np.random.Generator
) -> list[FloatArray]:
    """People spread evenly over maps of a height and width: [parts, 2] each, in the maps' pixels.

    A part that falls outside the maps is nan.
    """
    height, width = size
    columns = max(1, round(math.sqrt(count * width / height)))
    rows = -(-count // columns)
    people = []
    for i in range(count):
        y, x = divmod(i, columns)
        centre = np.array([(x + 0.5) * width / columns, (y + 0.5) * height / rows])
        tall = rng.uniform(0.3, 0.4) * height
        points = figure(skeleton, rng) * tall + centre + rng.uniform(-0.5, 0.5, 2)
        outside = ((points < 0) | (points > (width - 1, height - 1))).any(axis=1)
        people.append(np.where(outside[:, None], np.nan, points))
    return people


def draw_heat(
    people: Sequence[FloatArray], parts: int, size: tuple[int, int]
) -> NDArray[np.float64]:
    """Heat maps (parts, height, width) without noise; arguments as of `draw_maps`."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    heat = np.zeros((parts, *size))
    for points in people:
        for part in np.flatnonzero(np.isfinite(points[:, 0])):
            distance = (x - points[part, 0]) ** 2 + (y - points[part, 1]) ** 2
            heat[part] = np.maximum(heat[part], np.exp(-distance / (2 * SIGMA**2)))
    return heat


def draw_maps(
    people: Sequence[FloatArray],
    skeleton: Skeleton,
    size: tuple[int, int],
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Heat maps (parts, height, width) and fields (channels, height, width) of people.

    Args:
        people: [parts, 2] in the maps' pixels; nan for a part that is not there.
        skeleton: parts and limbs.
        size: the maps' height and width.
        noise: standard deviation of what is added to every value.
        rng: where the noise comes from.
    """
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    heat = draw_heat(people, len(skeleton.parts), size)
    paf, covered = np.zeros((skeleton.paf_channels, *size)), np.zeros((len(skeleton.limbs), *size))
    for points in people:
        for number, limb in enumerate(skeleton.paf_limbs):
            a, b = (points[end] for end in skeleton.ends(limb))
            length = math.hypot(*(b - a))
            if limb.paf is None or not length > 0:  # nan neither
                continue
            unit = (b - a) / length
            along = (x - a[0]) * unit[0] + (y - a[1]) * unit[1]
            across = np.abs((x - a[0]) * unit[1] - (y - a[1]) * unit[0])
            on = (across < HALF_WIDTH) & (along > -1) & (along < length + 1)
            covered[number] += on
            for channel, value in zip(limb.paf, unit, strict=True):
                paf[channel] += value * on
    for number, limb in enumerate(skeleton.paf_limbs):
        if limb.paf is not None:
            paf[list(limb.paf)] /= np.maximum(covered[number], 1)
    if noise:
        rng = rng or np.random.default_rng(0)
        heat += rng.normal(0, noise, heat.shape)
        paf += rng.normal(0, noise, paf.shape)
    return heat.astype(np.float32), paf.astype(np.float32)
