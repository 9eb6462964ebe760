"""Heads that read maps with offsets or tags, and coordinates, beside the published decoders."""

from __future__ import annotations

import math

import numpy as np
import pytest
from head_networks import detected, people
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from graphopt.pose.baseline_decoders import draw_tags
from graphopt.pose.heads.personlab import EDGES
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.synthetic import crowd, draw_heat

Floats = NDArray[np.float32]


def posenet_maps(count: int, noise: float) -> dict[str, Floats]:
    """Maps of made-up people at a stride of 16, for an input of 385x513."""
    height, width, stride = 25, 33, 16
    random = np.random.default_rng(count)
    bodies = crowd(load_skeleton("coco17"), count, (height, width), random)
    heat = draw_heat(bodies, 17, (height, width))
    y, x = np.mgrid[:height, :width]
    offsets, ways = np.zeros((2, 17, height, width)), np.zeros((2, 2, 16, height, width))

    def nearest(part: int) -> NDArray[np.int64]:
        away = [(b[part, 0] - x) ** 2 + (b[part, 1] - y) ** 2 for b in bodies]
        who: NDArray[np.int64] = np.nan_to_num(np.array(away), nan=1e9).argmin(axis=0)
        return who

    places = np.nan_to_num(np.array(bodies), nan=0.0)[..., ::-1] * stride
    for part in range(17):
        at = places[nearest(part), part]
        offsets[:, part] = at[..., 0] - y * stride, at[..., 1] - x * stride
    for number, edge in enumerate(EDGES):
        for way, (start, end) in enumerate((edge, edge[::-1])):
            who = nearest(start)
            ways[way, :, number] = np.moveaxis(places[who, end] - places[who, start], 2, 0)
    found = {
        "heat": heat,
        "offsets": offsets.reshape(34, height, width),
        "bwd": ways[1].reshape(32, height, width),
        "fwd": ways[0].reshape(32, height, width),
    }
    return {
        name: (value + random.normal(0, noise, value.shape) * (0.01 if name == "heat" else 1))[None]
        .clip(0 if name == "heat" else -1e9, 1 if name == "heat" else 1e9)
        .astype(np.float32)
        for name, value in found.items()
    }


def posenet(maps: dict[str, Floats], stride: int = 16) -> list[tuple[float, list[list[float]]]]:
    """tfjs-models, posenet/src/multi_pose/decode_multiple_poses.ts, pixel by pixel."""
    heat, offsets, forward, backward = (maps[n][0] for n in ("heat", "offsets", "fwd", "bwd"))
    _, height, width = heat.shape

    def index(value: float, size: int) -> int:
        return min(max(math.floor(value / stride + 0.5), 0), size - 1)

    def image_coordinates(part: int, i: int, j: int) -> list[float]:
        return [
            i * stride + float(offsets[part, i, j]),
            j * stride + float(offsets[17 + part, i, j]),
        ]

    queue = []
    for part in range(17):
        for i in range(height):
            for j in range(width):
                window = heat[part, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                if heat[part, i, j] >= 0.5 and not (window > heat[part, i, j]).any():
                    queue.append((-float(heat[part, i, j]), part, i, j))
    poses: list[tuple[float, list[list[float]]]] = []

    def within(points: list[list[float]], part: int, y: float, x: float) -> bool:
        return (points[part][0] - y) ** 2 + (points[part][1] - x) ** 2 <= 400

    for score, part, i, j in sorted(queue):
        y, x = image_coordinates(part, i, j)
        if any(within(points, part, y, x) for _, points in poses):
            continue
        points: dict[int, list[float]] = {part: [y, x, -score]}

        def follow(edge: int, source: int, target: int, field: Floats) -> None:
            y, x, _ = points[source]  # noqa: B023
            i, j = index(y, height), index(x, width)
            y, x = y + float(field[edge, i, j]), x + float(field[16 + edge, i, j])
            for _ in range(2):
                y, x = image_coordinates(target, index(y, height), index(x, width))
            score = float(heat[target, index(y, height), index(x, width)])
            points[target] = [y, x, score]  # noqa: B023

        for edge in range(15, -1, -1):
            parent, child = EDGES[edge]
            if child in points and parent not in points:
                follow(edge, child, parent, backward)
        for edge, (parent, child) in enumerate(EDGES):
            if parent in points and child not in points:
                follow(edge, parent, child, forward)
        whole = [points[p] for p in range(17)]
        own = [p[2] for n, p in enumerate(whole) if not any(within(o, n, *p[:2]) for _, o in poses)]
        poses.append((sum(own) / 17, whole))
    return sorted((p for p in poses if p[0] >= 0.25), key=lambda p: -p[0])


@pytest.mark.parametrize("noise", [0.0, 3.0])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("logits", [False, True])
def test_personlab(noise: float, last: bool, logits: bool) -> None:
    maps = posenet_maps(3, noise)
    given = dict(maps)
    if logits:
        given["heat"] = np.log((maps["heat"] + 1e-6) / (1 - maps["heat"] + 1e-6))
        maps["heat"] = (1 / (1 + np.exp(-given["heat"]))).astype(np.float32)
    if last:
        given = {name: np.ascontiguousarray(np.moveaxis(v, 1, 3)) for name, v in given.items()}
    spec = detected(given, (1, 3, 385, 513))
    assert spec.head == "personlab"
    assert spec.notes["head"].how == "detected"
    assert (spec.outputs["forward"], spec.outputs["backward"]) == ("fwd", "bwd")
    found = people(given, spec, (385, 513)).people
    expected = posenet(maps)
    assert len(found) == len(expected) >= 3
    for person, (score, points) in zip(found, expected, strict=True):
        assert person.score == pytest.approx(score, abs=1e-5)
        seen = person.keypoints[:, 2] > 0
        assert seen.sum() >= 10
        np.testing.assert_allclose(
            person.keypoints[seen], np.array(points)[seen][:, [1, 0, 2]], atol=1e-3
        )


def match_by_tag(joints: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """HigherHRNet's lib/core/group.py, for one tag a joint; joints of a part are [n, 4].

    x, y, score, tag; detection and tag thresholds as published: 0.1 and 1.
    """
    grouped: dict[int, NDArray[np.float64]] = {}
    tags: dict[int, list[float]] = {}
    for part, here in enumerate(joints):
        if not len(here):
            continue
        keys = list(grouped)
        pairs: list[tuple[int, int]] = []
        if keys:
            means = np.array([np.mean(tags[key]) for key in keys])
            saved = np.abs(here[:, 3:] - means[None])
            diff = np.round(saved) * 100 - here[:, 2:3]
            if len(here) > len(keys):
                pad = np.full((len(here), len(here) - len(keys)), 1e10)
                diff = np.concatenate((diff, pad), axis=1)
            for row, column in zip(*linear_sum_assignment(diff), strict=True):
                if column < len(keys) and saved[row, column] < 1:
                    pairs.append((row, keys[column]))
        owner = dict(pairs)
        for row, joint in enumerate(here):
            key = owner.get(row, len(grouped))
            grouped.setdefault(key, np.zeros((len(joints), 3)))[part] = joint[:3]
            tags.setdefault(key, []).append(joint[3])
    return list(grouped.values())


@pytest.mark.parametrize("finer", [False, True])
def test_associative_embedding(finer: bool) -> None:
    random = np.random.default_rng(3)
    skeleton = load_skeleton("coco17")
    size = (32, 48)
    bodies = crowd(skeleton, 3, size, random)
    tags = draw_tags(bodies, 17, size, 0.02, random)
    heat = draw_heat(bodies, 17, size).astype(np.float32)
    outputs = {"coarse": np.concatenate([heat, tags])[None]}
    if finer:
        doubled = [2 * body + 0.5 for body in bodies]
        outputs["fine"] = draw_heat(doubled, 17, (64, 96)).astype(np.float32)[None]
    spec = detected(outputs, (1, 3, 128, 192))
    assert spec.head == "associative-embedding"
    assert spec.notes["head"].how == ("detected" if finer else "guessed")
    found = people(outputs, spec, (128, 192)).people
    joints = []
    for part in range(17):
        rows = [(*body[part], 1.0, 2.0 * n) for n, body in enumerate(bodies)]
        joints.append(np.array([row for row in rows if np.isfinite(row[0])]).reshape(-1, 4))
    expected = match_by_tag(joints)
    assert len(found) == len(expected) == 3
    for points in expected:
        there = points[:, 2] > 0
        inside = there & (points[:, :2].min(axis=1) > 1)
        errors = [
            np.abs(person.keypoints[inside, :2] - ((points[inside, :2] + 0.5) * 4 - 0.5)).max()
            for person in found
        ]
        assert min(errors) < 2


@pytest.mark.parametrize(("parts", "numbers", "rest"), [(33, 5, 6), (21, 3, 0)])
def test_coordinates(parts: int, numbers: int, rest: int) -> None:
    random = np.random.default_rng(0)
    rows = random.uniform(0, 64, (parts + rest, numbers))
    rows[:, 3:] = random.uniform(-4, 4, (parts + rest, numbers - 3))
    outputs = {
        "world": random.uniform(-1, 1, rows.size)[None].astype(np.float32),
        "points": rows.reshape(1, -1).astype(np.float32),
        "flag": np.array([[0.75]], np.float32),
    }
    spec = detected(outputs, (1, 3, 64, 64))
    assert spec.head == "coordinates"
    assert spec.outputs == {"points": "points", "present": "flag"}
    assert len(spec.skeleton.parts) == parts
    (person,) = people(outputs, spec).people
    assert person.score == 0.75
    # mediapipe: x and y as they are, visibility by the sigmoid that options ask for.
    score = 1 / (1 + np.exp(-rows[:parts, 3])) if numbers > 3 else np.full(parts, 0.75)
    seen = score > 0.1
    np.testing.assert_allclose(person.keypoints[seen, :2], rows[:parts][seen, :2], rtol=1e-5)
    np.testing.assert_allclose(person.keypoints[seen, 2], score[seen], rtol=1e-5)
    outputs["flag"][:] = 0.25
    assert not people(outputs, spec).people
