"""Boxes and key points in two outputs: RTMO, as mmdeploy exports it.

Outputs are [1,N,5] (a box's left, top, right and bottom, and its score) and [1,N,K,3] (x, y and
score), in pixels of the input.
"""

from collections.abc import Iterator

import numpy as np

from graphopt.pose.head import Answers, FloatArray, Found, Look, OutputHead, part_counts
from graphopt.pose.nms import suppress
from graphopt.pose.spec import Preprocess

MOST_KEPT = 300


def find(look: Look) -> Iterator[Found]:
    """Two outputs of equally many rows, or of as many as there happen to be people."""
    shapes = look.shapes()
    boxes = [name for name, s in shapes.items() if len(s) == 3 and s[0] == 1 and s[2] == 5]
    for name, shape in shapes.items():
        if len(shape) == 4 and shape[3] == 3 and shape[2] in part_counts(look):
            for box in boxes:
                if shapes[box][1] == shape[1]:
                    yield Found(
                        {"boxes": box, "keypoints": name},
                        shape[2],
                        f"{box} is {list(shapes[box])}: boxes and scores; {name} is {list(shape)}",
                    )


def people(answers: Answers) -> tuple[FloatArray, FloatArray]:
    """Those above the threshold, suppressed by the overlap of their boxes."""
    boxes, keypoints = answers["boxes"][0], answers["keypoints"][0]
    least = max(answers.parameters["min_score"], answers.options.min_score)
    likely = np.flatnonzero(boxes[:, 4] > least)
    kept = likely[
        suppress(
            boxes[likely, :4],
            boxes[likely, 4],
            overlap=answers.parameters["overlap"],
            most=MOST_KEPT,
        )
    ]
    return keypoints[kept], boxes[kept, 4]


HEAD = OutputHead(
    name="rtmo",
    summary="boxes and key points in two outputs: RTMO 1xNx5 and 1xNx17x3",
    source="Lu et al., RTMO, CVPR 2024; rtmlib, tools/pose_estimation/rtmo.py (postprocess)",
    preprocess=Preprocess(
        color="bgr", mean=(0.0,) * 3, scale=(1.0,) * 3, pad_value=114.0, multiple=32, height=640
    ),
    find=find,
    people=people,
    parameters={"min_score": 0.3, "overlap": 0.45, "min_part_score": 0.1},
    edges=True,
)
