"""Coordinates that the network answers with at once: BlazePose, MediaPipe's hands.

Outputs are [1,5N] (x, y, z, visibility and presence as logits; the first 33 of BlazePose's 39) or
[1,3*21] (x, y, z of a hand), in pixels of the input, and [1,1], whether there is anybody: 0..1. Of
several such outputs the one with pixels is read: others are in metres.
"""

from collections.abc import Iterator

import numpy as np

from graphopt.pose.head import Answers, FloatArray, Found, Look, OutputHead
from graphopt.pose.spec import Preprocess

KINDS = {195: (33, 5), 165: (33, 5), 63: (21, 3)}
"""Key points, and numbers of each, by how many numbers there are."""


def find(look: Look) -> Iterator[Found]:
    """The output of that many numbers with the greatest reach, and the first single number."""
    values = look.probe.values
    flat = {name: v for name, v in values.items() if v.ndim > 1 and v.shape[0] == 1}
    fitting = [name for name, v in flat.items() if v.size in KINDS and max(v.shape) > 1]
    if not fitting:
        return
    name = max(fitting, key=lambda name: np.abs(values[name].astype(np.float64)).max())
    parts, _ = KINDS[values[name].size]
    flags = [other for other, v in flat.items() if v.size == 1]
    why = f"{name} is {list(values[name].shape)}: coordinates of {parts} key points"
    outputs = {"points": name} | ({"present": flags[0]} if flags else {})
    yield Found(outputs, parts, why, guessed=len(flags) > 1)


def people(answers: Answers) -> tuple[FloatArray, FloatArray]:
    """One person, whose score is the network's own; a key point's is its visibility."""
    flat = answers["points"].reshape(-1)
    parts, numbers = KINDS[flat.size]
    rows = flat.reshape(-1, numbers)[:parts]
    present = answers["present"].reshape(-1)[0] if "present" in answers.values else np.float32(1)
    seen = np.full(parts, present, np.float32)
    if numbers > 3:
        seen = 1 / (1 + np.exp(-rows[:, 3].clip(-80, 80)))
    keypoints = np.concatenate([rows[:, :2], seen[:, None]], axis=1).astype(np.float32)
    return keypoints[None], np.array([present], np.float32)


HEAD = OutputHead(
    name="coordinates",
    summary="coordinates of one person or hand, cut out: BlazePose 1x195, MediaPipe's hands 1x63",
    source="mediapipe, calculators/tensor/tensors_to_landmarks_calculator.cc",
    preprocess=Preprocess(
        color="rgb", mean=(0.0,) * 3, scale=(1 / 255,) * 3, pad_value=0.0, multiple=32, height=256
    ),
    find=find,
    people=people,
    parameters={"min_score": 0.5, "min_part_score": 0.1, "box_padding": 1.0},
    edges=True,
)
