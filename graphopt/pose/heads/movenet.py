"""Key points that the network has decoded itself, in parts of its input: MoveNet.

Outputs are [1,1,K,3] (y, x, score; one person: Lightning, Thunder) or [1,N,3K+5] (K times y, x,
score, then a box's ymin, xmin, ymax, xmax and the person's score: MultiPose). Coordinates are 0..1
along the input's rows and columns.
"""

from collections.abc import Iterator

import numpy as np

from graphopt.pose.head import Answers, FloatArray, Found, Look, OutputHead, part_counts
from graphopt.pose.spec import Preprocess

BOX = 5
"""Numbers of a box, and its score."""
MOST_PEOPLE = 20
"""More rows than this are a detector's candidates, not people."""


def find(look: Look) -> Iterator[Found]:
    """One output whose only values are parts of the input."""
    outputs = look.shapes()
    for name, shape in outputs.items():
        parts, role = 0, "person"
        if len(shape) == 4 and shape[:2] == (1, 1) and shape[3] == 3:
            parts = shape[2]
        elif len(shape) == 3 and shape[0] == 1 and shape[1] <= MOST_PEOPLE:
            role, parts = "people", (shape[2] - BOX) // 3 * ((shape[2] - BOX) % 3 == 0)
        values = np.asarray(look.probe.values[name], np.float64)
        if parts in part_counts(look) and np.abs(values - 0.5).max(initial=0) <= 1:
            yield Found(
                {role: name},
                parts,
                f"{name} is {list(shape)}, with values of {values.min():.2g} to {values.max():.2g}",
                {} if role == "person" else {"min_score": 0.25},
                guessed=len(outputs) > 1,
            )


def people(answers: Answers) -> tuple[FloatArray, FloatArray]:
    """A person's score is the box's, or the mean of the key points'."""
    parts = len(answers.skeleton.parts)
    if "person" in answers.values:
        rows = answers["person"].reshape(1, parts, 3)
        scores = rows[:, :, 2].mean(axis=1)
    else:
        flat = answers["people"][0]
        rows, scores = flat[:, : 3 * parts].reshape(-1, parts, 3), flat[:, -1]
    keypoints = rows[:, :, [1, 0, 2]]
    keypoints[..., :2] *= np.array(answers.size[::-1], np.float32)
    return keypoints, scores


HEAD = OutputHead(
    name="movenet",
    summary="decoded by the network, in parts of its input: MoveNet 1x1x17x3, MultiPose 1x6x56",
    source="tfhub.dev/google/movenet (model cards); tfjs-models, pose-detection/src/movenet",
    preprocess=Preprocess(
        color="rgb", mean=(0.0,) * 3, scale=(1.0,) * 3, pad_value=0.0, multiple=32, height=256
    ),
    find=find,
    people=people,
    parameters={"min_score": 0.1, "min_part_score": 0.1},
    edges=True,
)
