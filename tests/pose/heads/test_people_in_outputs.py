"""Heads on outputs that are made up, beside the published decoders, written out here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from head_networks import detected, people
from numpy.typing import NDArray

from graphopt.errors import InputError
from graphopt.pose.head_choice import all_heads, find_head
from graphopt.pose.preprocess import Placement

Floats = NDArray[np.float32]
PHOTO = Placement(scale=(0.5, 0.5), offset=(4, 10))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_head_is_a_file_with_a_name_of_its_own() -> None:
    for name, head in all_heads().items():
        assert head.name == name
        assert head.summary
        assert head.source
    with pytest.raises(InputError, match="there is no head"):
        find_head("tail")


def yolo_rows(count: int, seed: int = 0, parts: int = 17) -> Floats:
    """Candidates [count, 4 + 1 + 3 parts] in groups that overlap."""
    random = rng(seed)
    group = random.uniform(10, 54, (6, 2))[random.integers(0, 6, count)]
    middle = group + random.normal(0, 2, (count, 2))
    sides = random.uniform(15, 25, (count, 2))
    score = random.uniform(0, 1, (count, 1))
    parts_ = random.uniform(0, 64, (count, parts, 3))
    parts_[..., 2] = random.uniform(0.2, 1, (count, parts))
    return np.concatenate([middle, sides, score, parts_.reshape(count, -1)], 1).astype(np.float32)


def ultralytics(rows: Floats, confidence: float, overlap: float) -> Floats:
    """`utils/nms.py` non_max_suppression of one class: rows that are kept, best first."""
    rows = rows[rows[:, 4] > confidence]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    kept: list[Floats] = []
    for row in rows:
        a = [row[0] - row[2] / 2, row[1] - row[3] / 2, row[0] + row[2] / 2, row[1] + row[3] / 2]
        for other in kept:
            x, y, w, h = other[:4].astype(float)
            b = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = row[2] * row[3] + w * h - width * height
            if width * height / union > overlap:
                break
        else:
            kept.append(row)
    return np.array(kept)


@pytest.mark.parametrize("turn", [lambda rows: rows.T, lambda rows: rows], ids=["1xCxN", "1xNxC"])
@pytest.mark.parametrize("parts", [17, 26, 133])
def test_yolo(turn: Callable[[Floats], Floats], parts: int) -> None:
    rows = yolo_rows(84, parts=parts)
    outputs = {"output0": turn(rows)[None]}
    spec = detected(outputs)
    assert spec.head == "yolo"
    assert len(spec.skeleton.parts) == parts
    assert spec.preprocess.pad_value == 114
    assert spec.preprocess.color == "rgb"
    assert spec.preprocess.scale == pytest.approx((1 / 255,) * 3)
    expected = ultralytics(rows, 0.25, 0.7)
    found = people(outputs, spec, placement=PHOTO).people
    assert len(found) == len(expected) < len(rows)
    for person, row in zip(found, expected, strict=True):
        assert person.score == row[4]
        points = row[5:].reshape(-1, 3)
        # ultralytics/utils/ops.py, scale_coords
        np.testing.assert_allclose(
            person.keypoints[:, :2], (points[:, :2] - (4, 10)) / 0.5, atol=1e-4
        )
        np.testing.assert_array_equal(person.keypoints[:, 2], points[:, 2])


def test_equal_candidates_are_taken_in_their_order() -> None:
    rows = yolo_rows(84)
    rows[:, 4] = 0.5
    rows[:, :4] = 32, 32, 20, 20
    spec = detected({"o": rows.T[None]})
    (person,) = people({"o": rows.T[None]}, spec).people
    np.testing.assert_allclose(person.keypoints, rows[0, 5:].reshape(17, 3))


def test_more_classes_are_a_guess_and_do_not_suppress_each_other() -> None:
    rows = yolo_rows(84)
    rows[:, :4] = 32, 32, 20, 20
    classes = np.zeros((84, 2), np.float32)
    classes[0, 0], classes[1, 1] = 0.9, 0.8
    two = np.concatenate([rows[:, :4], classes, rows[:, 5:]], axis=1)
    spec = detected({"o": two.T[None]})
    assert spec.notes["head"].how == "guessed"
    assert [p.score for p in people({"o": two.T[None]}, spec).people] == pytest.approx([0.9, 0.8])


def test_yolo_end_to_end() -> None:
    rows = yolo_rows(300)
    ends = np.insert(rows, 5, 0, axis=1)
    ends[:, :4] = np.concatenate([rows[:, :2] - 5, rows[:, :2] + 5], axis=1)
    ends[:, 4] = np.linspace(0.9, 0, 300)
    outputs = {"output0": ends[None]}
    spec = detected(outputs)
    assert spec.head == "yolo-end-to-end"
    assert spec.notes["head"].how == "detected"
    found = people(outputs, spec).people
    assert len(found) == min(128, (ends[:, 4] >= 0.25).sum())
    np.testing.assert_allclose(found[3].keypoints, ends[3, 6:].reshape(17, 3))


def test_rtmo() -> None:
    rows = yolo_rows(50)
    boxes = np.concatenate([rows[:, :2] - 8, rows[:, :2] + 8, rows[:, 4:5]], axis=1)
    keypoints = rows[:, 5:].reshape(50, 17, 3)
    outputs = {"dets": boxes[None], "keypoints": keypoints[None]}
    spec = detected(outputs)
    assert spec.head == "rtmo"
    assert spec.preprocess.color == "bgr"
    square = np.concatenate([rows[:, :2], np.full((50, 2), 16), rows[:, 4:]], 1).astype(np.float32)
    expected = ultralytics(square, 0.3, 0.45)
    found = people(outputs, spec, placement=PHOTO).people
    assert [p.score for p in found] == expected[:, 4].tolist()
    for person, row in zip(found, expected, strict=True):
        points = row[5:].reshape(-1, 3)[:, :2]
        np.testing.assert_allclose(person.keypoints[:, :2], (points - (4, 10)) / 0.5, atol=1e-4)


def mmpose_simcc(x: Floats, y: Floats, split: float) -> tuple[Floats, Floats]:
    """`codecs/utils/post_processing.py` get_simcc_maximum, and `simcc_label.py` decode."""
    places = np.stack((np.argmax(x, axis=1), np.argmax(y, axis=1)), axis=-1).astype(np.float32)
    across, down = np.amax(x, axis=1), np.amax(y, axis=1)
    mask = across > down
    across[mask] = down[mask]
    return places / split, across


@pytest.mark.parametrize(("shape", "split"), [((64, 48), 2), ((64, 64), 2), ((64, 96), 3)])
@pytest.mark.parametrize("parts", [17, 26, 133, 21])
def test_simcc(shape: tuple[int, int], split: int, parts: int) -> None:
    height, width = shape
    x = rng(1).uniform(0, 1, (parts, width * split)).astype(np.float32)
    y = rng(2).uniform(0, 1, (parts, height * split)).astype(np.float32)
    outputs = {"simcc_x": x[None], "simcc_y": y[None]}
    spec = detected(outputs, (1, 3, *shape))
    assert spec.head == "simcc"
    assert spec.parameters["split"] == split
    assert spec.notes["head"].how == ("guessed" if height == width else "detected")
    assert spec.preprocess.mean == pytest.approx((123.675, 116.28, 103.53))
    (person,) = people(outputs, spec, shape).people
    places, scores = mmpose_simcc(x, y, split)
    np.testing.assert_array_equal(person.keypoints[:, :2], places)
    np.testing.assert_array_equal(person.keypoints[:, 2], scores)


def test_movenet_of_one_person() -> None:
    values = rng().uniform(0.2, 1, (1, 1, 17, 3)).astype(np.float32)
    spec = detected({"output_0": values}, (1, 64, 96, 3))
    assert spec.head == "movenet"
    assert spec.preprocess.scale == (1, 1, 1)
    (person,) = people({"output_0": values}, spec, (64, 96), PHOTO).people
    y, x, score = values[0, 0].T
    np.testing.assert_allclose(person.keypoints[:, 0], (x * 96 - 4) / 0.5, rtol=1e-5)
    np.testing.assert_allclose(person.keypoints[:, 1], (y * 64 - 10) / 0.5, rtol=1e-5)
    np.testing.assert_array_equal(person.keypoints[:, 2], score)


def test_movenet_of_several_people() -> None:
    values = rng().uniform(0.2, 1, (1, 6, 56)).astype(np.float32)
    values[0, :, 55] = 0.3, 0.9, 0.1, 0.5, 0.0, 0.2
    spec = detected({"output_0": values})
    assert spec.head == "movenet"
    found = people({"output_0": values}, spec).people
    assert [p.score for p in found] == pytest.approx([0.9, 0.5, 0.3])
    np.testing.assert_allclose(found[0].keypoints[:, 1], values[0, 1, :51:3] * 64, rtol=1e-5)


def test_values_that_are_not_finite_are_told() -> None:
    values = np.full((1, 1, 17, 3), 0.5, np.float32)
    spec = detected({"output_0": values})
    values[0, 0, 3] = np.nan
    poses = people({"output_0": values}, spec)
    assert "not finite" in poses.warnings[0]
    assert poses.people[0].keypoints[3].tolist() == [0, 0, 0]


def test_thresholds_and_limits_are_those_of_the_options() -> None:
    rows = yolo_rows(84)
    spec = detected({"o": rows.T[None]})
    assert all(p.score >= 0.8 for p in people({"o": rows.T[None]}, spec, min_score=0.8).people)
    poses = people({"o": rows.T[None]}, spec, max_people=2)
    assert len(poses.people) == 2
    assert "more than 2 people" in poses.warnings[0]


def test_a_network_that_fits_nothing_is_refused() -> None:
    outputs = {"o": np.zeros((1, 7, 11), np.float32)}
    with pytest.raises(InputError, match="fit no skeleton"):
        detected(outputs)
    with pytest.raises(InputError, match=r"head yolo does not fit .* o \[1, 7, 11\]"):
        detected(outputs, head="yolo")
    with pytest.raises(InputError, match="head simcc does not fit"):
        detected(
            {"x": np.zeros((1, 17, 128), np.float32), "y": np.zeros((1, 17, 128), np.float32)},
            head="simcc",
            skeleton="mpii16",
        )


def test_the_page_on_heads_has_all_of_them() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "heads.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in all_heads())
