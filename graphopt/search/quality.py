"""How good a candidate's poses are: COCO's AP, with people's labels and without.

Without labels the original stands in for the annotators: the people that it is surest of, at its
full size, are the truth (self-AP), by the same measure, object key-point similarity, as COCO's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.ir.records import Record
from graphopt.pose.estimate import FindsPeople
from graphopt.pose.evaluate import coco_scores, detections

BODY = 0.53
"""A person's area as a part of the box around the key points: COCO's truth has the area of the
person's outline, and this stands in for it where there is none, as in mmpose's data sets."""


@dataclass(frozen=True)
class Quality(Record):
    """How good poses are, 0..1."""

    self_ap: float
    """AP against the original's own poses."""
    ap: float | None = None
    """AP against annotations; None where there are none."""

    @property
    def counted(self) -> float:
        """What candidates are compared by: the real one if there is one."""
        return self.self_ap if self.ap is None else self.ap


@dataclass(frozen=True)
class Judge:
    """Photos, and what is true of them."""

    photos: Mapping[int, Path]
    own: Mapping[str, Any]
    """The original's people, as COCO's annotations."""
    annotated: Mapping[str, Any] | None = None
    """People's."""

    def __call__(
        self, candidate: FindsPeople, progress: Callable[[int, int], None] = lambda _a, _b: None
    ) -> Quality:
        """How good a candidate's poses are."""
        found = detections(candidate, self.photos, progress)
        images = list(self.photos)
        ap = None if self.annotated is None else coco_scores(self.annotated, found, images)[0]
        return Quality(coco_scores(self.own, found, images)[0], ap)


def as_truth(found: Sequence[Mapping[str, Any]], photos: Mapping[int, Path]) -> dict[str, Any]:
    """People that a network found (`detections`), as COCO's annotations.

    Those whose score is below the median are marked as a crowd, which COCO counts neither as found
    nor as missed: many of them nobody would annotate, and the smallest change makes them come and
    go.
    """
    annotations = []
    sure = statistics.median(person["score"] for person in found) if found else 0.0
    for number, person in enumerate(found, start=1):
        points = [person["keypoints"][i : i + 3] for i in range(0, len(person["keypoints"]), 3)]
        seen = [(x, y) for x, y, there in points if there]
        left, top = (min(axis) for axis in zip(*seen, strict=True))
        right, bottom = (max(axis) for axis in zip(*seen, strict=True))
        width, height = max(1.0, right - left), max(1.0, bottom - top)
        annotations.append(
            {
                "id": number,
                "image_id": person["image_id"],
                "category_id": person["category_id"],
                "iscrowd": int(person["score"] < sure),
                # COCO says 2 of what can be seen.
                "keypoints": [value for x, y, there in points for value in (x, y, 2 * there)],
                "num_keypoints": len(seen),
                "bbox": [left, top, width, height],
                "area": BODY * width * height,
            }
        )
    return {
        "images": [{"id": image, "file_name": path.name} for image, path in photos.items()],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
