"""What the original's own people say of a candidate's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphopt.pose.evaluate import coco_scores
from graphopt.search.quality import as_truth

PHOTOS = {1: Path("one.jpg"), 2: Path("two.jpg")}


def _person(image: int, left: float, score: float) -> dict[str, Any]:
    """All of COCO's key points, spread over 100 pixels."""
    points = [(left + 6 * i, 50 + 40 * (i % 3), 1) for i in range(17)]
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": [float(value) for point in points for value in point],
        "score": score,
    }


OWN = [_person(1, 20, 0.9), _person(2, 40, 0.8), _person(1, 220, 0.2), _person(2, 240, 0.1)]


def _self_ap(found: list[dict[str, Any]]) -> float:
    pytest.importorskip("pycocotools")
    return coco_scores(as_truth(OWN, PHOTOS), found, list(PHOTOS))[0]


def test_the_original_is_right() -> None:
    assert _self_ap(OWN) == pytest.approx(1)


def test_people_whom_it_is_not_sure_of_count_neither_way() -> None:
    assert _self_ap(OWN[:2]) == pytest.approx(1)
    assert _self_ap(OWN[:3]) == pytest.approx(1)


def test_lost_and_moved_people_count() -> None:
    assert _self_ap(OWN[:1]) == pytest.approx(0.5, abs=0.02)
    moved = [_person(1, 25, 0.9), _person(2, 45, 0.8)]
    assert 0.1 < _self_ap(moved) < 0.95
    assert _self_ap([]) == 0


def test_a_truth_of_nobody() -> None:
    assert as_truth([], PHOTOS)["annotations"] == []
