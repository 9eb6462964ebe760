"""People followed through the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from graphopt.errors import InputError
from graphopt.pose.decode import Person
from graphopt.pose.estimate import Job
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.synthetic import crowd
from graphopt.pose.track import PATIENCE, OneEuro, Tracker

COCO18 = load_skeleton("coco18")
FPS = 25.0
SHAPE = 8 * crowd(COCO18, 1, (46, 82), np.random.default_rng(2))[0]
"""Key points [parts, 2] in pixels."""


def somebody(x: float, y: float = 0.0, noise: float = 0.0, seed: int = 0) -> Person:
    there = np.nan_to_num(SHAPE) + (x, y) + noise * np.random.default_rng(seed).normal(size=(18, 2))
    scores = np.isfinite(SHAPE[:, :1]).astype(float)
    return Person(np.hstack([there * scores, scores]).astype(np.float32), 0.9)


def identities(people: Sequence[Person]) -> list[int | None]:
    return [person.identity for person in people]


def test_identity_follows_people_not_their_order() -> None:
    tracker = Tracker(COCO18, FPS)
    assert identities(tracker([somebody(0), somebody(300)])) == [1, 2]
    for frame in range(1, 40):
        left, right = somebody(3 * frame, noise=1, seed=frame), somebody(300 - frame)
        order = [left, right] if frame % 2 else [right, left]
        assert identities(tracker(order)) == ([1, 2] if frame % 2 else [2, 1])


def test_a_stranger_is_a_new_one() -> None:
    tracker = Tracker(COCO18, FPS)
    tracker([somebody(0)])
    assert identities(tracker([somebody(400), somebody(2)])) == [2, 1]
    assert tracker([]) == ()


@pytest.mark.parametrize(("frames", "identity"), [(int(PATIENCE * FPS) - 1, 1), (60, 2)])
def test_who_is_away_for_long_is_forgotten(frames: int, identity: int) -> None:
    tracker = Tracker(COCO18, FPS)
    tracker([somebody(0)])
    for _ in range(frames):
        tracker([])
    assert identities(tracker([somebody(1)])) == [identity]


def smoothed(places: Sequence[float], noise: float) -> NDArray[np.float32]:
    """Key points [frames, parts, 3] of somebody at these places."""
    tracker = Tracker(COCO18, FPS, smooth=True)
    frames = [somebody(x, noise=noise, seed=i) for i, x in enumerate(places)]
    return np.array([tracker([person])[0].keypoints for person in frames])


def test_who_stands_still_does_not_tremble() -> None:
    rough = np.array([somebody(0, noise=2, seed=i).keypoints for i in range(100)])
    still = smoothed([0.0] * 100, noise=2)
    found = rough[0, :, 2] > 0
    jitter, left = (np.diff(v[20:, found, :2], axis=0).std() for v in (rough, still))
    assert left < 0.4 * jitter
    np.testing.assert_array_equal(still[..., 2], rough[..., 2])


def test_who_moves_does_not_lag() -> None:
    speed = 8.0  # pixels a frame
    moving = smoothed([speed * i for i in range(50)], noise=0)
    expected = somebody(speed * 49).keypoints
    found = expected[:, 2] > 0
    lag = expected[found, 0] - moving[-1, found, 0]
    assert (lag >= -1e-3).all()
    assert lag.max() < 2 * speed, "two frames"


def test_a_part_that_comes_back_starts_afresh() -> None:
    smooth = OneEuro(FPS)
    points = np.array([[0, 0, 1], [10, 10, 1]], np.float32)
    gone = np.array([[0, 0, 1], [0, 0, 0]], np.float32)
    far = np.array([[0, 0, 1], [90, 90, 1]], np.float32)
    smooth(points)
    np.testing.assert_array_equal(smooth(gone), gone)
    np.testing.assert_array_equal(smooth(far), far)


def test_photos_have_nobody_to_follow(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    with pytest.raises(InputError, match="there is none"):
        Job.plan([tmp_path / "photo.png"], None, tracking="track")
