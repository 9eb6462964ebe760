"""A candidate a column, not yet suppressed: YOLOv8-pose, YOLO11-pose, and their kin.

The output is [1,C,N] or [1,N,C], C = 4 + classes + 3K: a box's centre, width and height, a score
for each class, then K times x, y and score, in pixels of the input. N is a candidate for each pixel
of maps at strides of 8, 16 and 32 (and 64).
"""

from collections.abc import Iterator

import numpy as np

from graphopt.pose.head import Answers, FloatArray, Found, Look, OutputHead, part_counts
from graphopt.pose.nms import suppress
from graphopt.pose.spec import Preprocess

STRIDES = ((8, 16, 32), (8, 16, 32, 64))
MOST_KEPT, MOST_CANDIDATES = 300, 30000
"""As ultralytics' `max_det` and `max_nms`."""


def find(look: Look) -> Iterator[Found]:
    """One output with as many candidates as maps of the usual strides have pixels."""
    rows, columns = look.probe.size
    counts = {sum((rows // s) * (columns // s) for s in strides) for strides in STRIDES}
    for name, shape in look.shapes().items():
        if len(shape) != 3 or shape[0] != 1:
            continue
        for axis, role in ((1, "columns"), (2, "rows")):
            channels, candidates = shape[axis], shape[3 - axis]
            if candidates not in counts:
                continue
            # One class, people, is what pose networks have; another number is a guess.
            classes = {parts: channels - 4 - 3 * parts for parts in part_counts(look)}
            fitting = [p for p, n in classes.items() if n == 1] or [
                p for p, n in classes.items() if n > 1
            ]
            for parts in fitting[:1]:
                yield Found(
                    {role: name},
                    parts,
                    f"{name} is {list(shape)}: {candidates} candidates are those of strides of "
                    f"8, 16, 32, with a box, {classes[parts]} class and {parts} key points each",
                    guessed=classes[parts] > 1,
                )
                return


def people(answers: Answers) -> tuple[FloatArray, FloatArray]:
    """Candidates above the threshold, suppressed by the overlap of their boxes."""
    rows = answers["columns"][0].T if "columns" in answers.values else answers["rows"][0]
    parts = len(answers.skeleton.parts)
    first = rows.shape[1] - 3 * parts
    kinds, scores = rows[:, 4:first].argmax(axis=1), rows[:, 4:first].max(axis=1)
    least = max(answers.parameters["min_score"], answers.options.min_score)
    likely = np.flatnonzero(scores > least)
    likely = likely[np.argsort(-scores[likely], kind="stable")[:MOST_CANDIDATES]]
    middle, half = rows[likely, :2], rows[likely, 2:4] / 2
    # Boxes of different classes do not suppress each other: they are moved apart.
    apart = (kinds[likely, None] * np.float32(2 * max(answers.size))).astype(np.float32)
    boxes = np.concatenate([middle - half, middle + half], axis=1) + apart
    kept = likely[
        suppress(boxes, scores[likely], overlap=answers.parameters["overlap"], most=MOST_KEPT)
    ]
    return rows[kept, first:].reshape(len(kept), parts, 3), scores[kept]


LETTERBOX = Preprocess(
    color="rgb", mean=(0.0,) * 3, scale=(1 / 255,) * 3, pad_value=114.0, multiple=32, height=640
)
"""As ultralytics trains: grey, centred, 0..1."""

HEAD = OutputHead(
    name="yolo",
    summary="dense candidates, suppressed here: YOLOv8-pose, YOLO11-pose 1x56xN",
    source="ultralytics, utils/nms.py (non_max_suppression) and models/yolo/pose/predict.py",
    preprocess=LETTERBOX,
    find=find,
    people=people,
    parameters={"min_score": 0.25, "overlap": 0.7, "min_part_score": 0.1},
    edges=True,
)
