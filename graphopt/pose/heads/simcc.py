"""A vector along x and one along y for each key point: SimCC, as RTMPose and RTMW have them.

Outputs are [1,K,W*split] and [1,K,H*split]; where each is greatest is the key point, in bins of
which `split` make a pixel of the input. The networks see one person, cut out; without boxes the
whole photo is the person.
"""

from collections.abc import Iterator

import numpy as np

from graphopt.pose.head import Answers, FloatArray, Found, Look, OutputHead, part_counts
from graphopt.pose.spec import Preprocess


def find(look: Look) -> Iterator[Found]:
    """Two outputs that are as many times longer than the input is wide and high."""
    rows, columns = look.probe.size
    flat = {n: s for n, s in look.shapes().items() if len(s) == 3 and s[0] == 1}
    for along_x, (_, parts, width) in flat.items():
        for along_y, (_, others, height) in flat.items():
            order = [*flat].index(along_x) < [*flat].index(along_y)
            if (
                along_x == along_y
                or parts != others
                or parts not in part_counts(look)
                or width * rows != height * columns
                or width < columns
                or (rows == columns and not order)  # a square input tells nothing but the order
            ):
                continue
            yield Found(
                {"x": along_x, "y": along_y},
                parts,
                f"{along_x} and {along_y} are {width / columns:g} times as long as the input of "
                f"{rows}x{columns} is wide and high",
                {"split": width / columns},
                guessed=rows == columns,
            )


def people(answers: Answers) -> tuple[FloatArray, FloatArray]:
    """One person; a key point's score is the lesser of the two greatest values."""
    x, y = answers["x"][0], answers["y"][0]
    place = np.stack([x.argmax(axis=1), y.argmax(axis=1)], axis=1) / answers.parameters["split"]
    scores = np.minimum(x.max(axis=1), y.max(axis=1))
    keypoints = np.concatenate([place, scores[:, None]], axis=1).astype(np.float32)[None]
    return keypoints, keypoints[:, :, 2].clip(0, 1).mean(axis=1)


HEAD = OutputHead(
    name="simcc",
    summary="a vector along x and one along y for each part: RTMPose, RTMW (one person, cut out)",
    source="Li et al., SimCC, ECCV 2022; mmpose, codecs/utils/post_processing.py "
    "(get_simcc_maximum)",
    preprocess=Preprocess(
        color="rgb",
        mean=(123.675, 116.28, 103.53),
        scale=(1 / 58.395, 1 / 57.12, 1 / 57.375),
        pad_value=0.0,
        multiple=32,
        height=256,
    ),
    find=find,
    people=people,
    parameters={"split": 2.0, "min_score": 0.0, "min_part_score": 0.1, "box_padding": 1.25},
)
