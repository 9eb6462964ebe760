"""People drawn on a photo: a tapered, shaded stroke a limb, a dot a key point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from graphopt.pose.decode import Person
from graphopt.pose.skeleton import Skeleton

FloatArray = NDArray[np.float64]
OUTLINE = np.zeros(3)
WHITE = np.full(3, 255.0)


def draw(photo: Image.Image, people: Sequence[Person], skeleton: Skeleton) -> Image.Image:
    """A copy of an RGB photo with people drawn on it, the most certain person on top.

    A stroke is as wide as the person is large. Limbs blend from the colour of the one part to that
    of the other; bridges (limbs that only help to find people) are not drawn.
    """
    canvas = np.asarray(photo).astype(np.float64)
    colors = [np.array(ImageColor.getrgb(c), float) for c in skeleton.part_colors]
    limbs = [
        (
            *skeleton.ends(limb),
            np.array(ImageColor.getrgb(limb.color), float) if limb.color else None,
        )
        for limb in skeleton.limbs
        if not limb.bridge
    ]
    for person in reversed(people):
        found = person.keypoints[:, 2] > 0
        points = person.keypoints[:, :2].astype(np.float64)
        extent = np.ptp(points[found], axis=0).max() if found.any() else 0.0
        width = float(np.clip(extent / 70, 1.2, max(photo.size) / 150))
        strokes = [
            (
                points[a],
                points[b],
                colors[a] if own is None else own,
                colors[b] if own is None else own,
            )
            for a, b, own in limbs
            if found[a] and found[b]
        ]
        dots = [(points[i], colors[i]) for i in np.flatnonzero(found)]
        edge = max(1.0, width / 3)
        for start, end, *_ in strokes:
            _stroke(canvas, start, end, width + edge, OUTLINE, OUTLINE, opacity=0.55)
        for start, end, first, last in strokes:
            _stroke(canvas, start, end, width, first, last, opacity=0.95)
        for point, color in dots:
            _stroke(canvas, point, point, 1.5 * width + edge, OUTLINE, OUTLINE, opacity=0.55)
            _stroke(canvas, point, point, 1.5 * width, WHITE, WHITE, opacity=1.0)
            _stroke(canvas, point, point, 1.5 * width - edge / 2, color, color, opacity=1.0)
    picture = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    _number(picture, people)
    return picture


def _number(picture: Image.Image, people: Sequence[Person]) -> None:
    """Write who is followed above their heads."""
    pen, size = ImageDraw.Draw(picture), max(picture.size) / 50
    for person in people:
        points = person.keypoints[person.keypoints[:, 2] > 0, :2]
        if person.identity is not None and len(points):
            x, y = points[points[:, 1].argmin()]
            place, text = (float(x), float(y) - size), str(person.identity)
            font = ImageFont.load_default(size)
            pen.text(place, text, "white", font, anchor="ms", stroke_width=2, stroke_fill="black")


def _stroke(
    canvas: FloatArray,
    start: FloatArray,
    end: FloatArray,
    radius: float,
    first: FloatArray,
    last: FloatArray,
    *,
    opacity: float,
) -> None:
    """Blend a capsule between two points (a disc where they are one) into canvas [h,w,3].

    A pixel's coverage is its distance to the edge, clamped to 0..1: smooth at any angle and width.
    """
    low = np.floor(np.minimum(start, end) - radius - 1).astype(int)
    high = np.ceil(np.maximum(start, end) + radius + 2).astype(int)
    left, top = np.maximum(low, 0)
    right, bottom = np.minimum(high, (canvas.shape[1], canvas.shape[0]))
    if left >= right or top >= bottom:
        return
    x, y = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
    dx, dy = end - start
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-9)
    along = along.clip(0, 1)
    distance = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    alpha = opacity * (radius + 0.5 - distance).clip(0, 1)[..., None]
    color = first + (last - first) * along[..., None]
    area = canvas[top:bottom, left:right]
    area += alpha * (color - area)
