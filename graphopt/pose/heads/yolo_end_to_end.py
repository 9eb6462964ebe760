"""A person a row, suppressed by the network: YOLO26-pose end to end, YOLO exported with `nms=True`.

The output is [1,N,6+3K]: a box's left, top, right and bottom, its score and class, then K times x,
y and score, in pixels of the input; rows past the people are of low score.
"""

from collections.abc import Iterator

import numpy as np

from graphopt.pose.head import Answers, FloatArray, Found, Look, OutputHead, part_counts
from graphopt.pose.heads import yolo

BOX = 6


def find(look: Look) -> Iterator[Found]:
    """One output with rows of a box, a class, which is a whole number, and key points."""
    if any(True for _ in yolo.find(look)):  # candidates of a small input may be as many
        return
    for name, shape in look.shapes().items():
        for parts in part_counts(look):
            if len(shape) != 3 or shape[0] != 1 or shape[2] != BOX + 3 * parts:
                continue
            kinds = look.probe.values[name][0, :, 5]
            if (kinds == np.rint(kinds)).all():
                yield Found(
                    {"people": name},
                    parts,
                    f"{name} is {list(shape)}: rows of a box, score, class and {parts} key points",
                )


def people(answers: Answers) -> tuple[FloatArray, FloatArray]:
    """The rows as they are."""
    rows = answers["people"][0]
    return rows[:, BOX:].reshape(len(rows), len(answers.skeleton.parts), 3), rows[:, 4]


HEAD = OutputHead(
    name="yolo-end-to-end",
    summary="people suppressed by the network: YOLO26-pose, YOLO with nms=True, 1x300x57",
    source="ultralytics, nn/modules/head.py (Pose26.postprocess), engine/exporter.py (NMSModel)",
    preprocess=yolo.LETTERBOX,
    find=find,
    people=people,
    parameters={"min_score": 0.25, "min_part_score": 0.1},
    edges=True,
)
