"""People in COCO's form: 17 key points, and what pycocotools reads as results."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import InputError
from graphopt.pose.decode import Person
from graphopt.pose.skeleton import Skeleton


def to_coco(person: Person, skeleton: Skeleton) -> NDArray[np.float64]:
    """COCO's 17 key points [17, 3]: x, y (corner convention) and 1, or zeros where not found."""
    source = skeleton.to_coco
    keypoints = np.where(source[:, None] >= 0, person.keypoints[source].astype(np.float64), 0)
    seen = keypoints[:, 2] > 0
    return np.where(seen[:, None], np.column_stack([keypoints[:, :2] + 0.5, seen]), 0)


def coco_result(person: Person, skeleton: Skeleton, image: int) -> dict[str, Any]:
    """Somebody in a photo as one of COCO's results.

    Args:
        person: the key points, in pixels of the photo.
        skeleton: what they are.
        image: the photo's id.

    Raises:
        InputError: see `check_shared`.
    """
    check_shared(skeleton)
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": to_coco(person, skeleton).ravel().tolist(),
        "score": person.score,
    }


def check_shared(skeleton: Skeleton) -> None:
    """Refuse a skeleton that COCO knows no part of.

    Raises:
        InputError: it is one.
    """
    if (skeleton.to_coco < 0).all():
        raise InputError(f"skeleton {skeleton.name} shares no part with COCO's key points")
