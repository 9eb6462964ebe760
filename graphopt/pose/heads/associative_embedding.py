"""Heat maps and tags, a number that all parts of a person share: HigherHRNet, stacked hourglass.

An output is [1,2K,h,w], K heat maps before K tag maps; HigherHRNet has finer heat maps [1,K,2h,2w]
besides, with which the coarse ones are averaged, and whose size the tags are brought to. People are
grouped as `graphopt.pose.baseline_decoders.by_tags` says.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from graphopt.pose.baseline_decoders import by_tags
from graphopt.pose.head import Answers, FloatArray, Found, Look, OutputHead, part_counts
from graphopt.pose.spec import Preprocess


def find(look: Look) -> Iterator[Found]:
    """The last output of heat maps and tags, where no other maps are left but finer heat maps."""
    maps = {n: s for n, s in look.shapes().items() if len(s) == 4 and s[0] == 1 and min(s) > 0}
    for parts in part_counts(look):
        both = [name for name, shape in maps.items() if shape[1] == 2 * parts]
        if not both:
            continue
        *_, name = both
        rows, columns = maps[name][2:]
        finer = [n for n, s in maps.items() if s == (1, parts, 2 * rows, 2 * columns)]
        if {*maps} - {*both, *finer} or min(rows, columns) < 2:
            continue
        yield Found(
            {"both": name} | ({"finer": finer[-1]} if finer else {}),
            parts,
            f"{name} is {list(maps[name])}: {parts} heat maps, and as many tags",
            guessed=not finer,
        )


def people(answers: Answers) -> tuple[FloatArray, FloatArray]:
    """A person's score is the mean of all parts', 0 for a part that was not found."""
    parts = len(answers.skeleton.parts)
    heat, tags = answers["both"][0, :parts], answers["both"][0, parts:]
    if "finer" in answers.values:
        heat, tags = ((_doubled(heat) + answers["finer"][0]) / 2), _doubled(tags)
    least = answers.parameters["peak_threshold"]
    options = replace(answers.options, peak_threshold=least, min_parts=1)
    found = by_tags(np.ascontiguousarray(heat), tags, options)
    stride = answers.size[0] / heat.shape[1]
    there = found[..., 2:] > 0
    found[..., :2] = np.where(there, (found[..., :2] + 0.5) * stride - 0.5, 0)
    return found, found[..., 2].mean(axis=1)


def _doubled(maps: FloatArray) -> FloatArray:
    """Maps [c, h, w] at twice their size, bilinear, by pixel centres (`align_corners=False`)."""
    for axis in (1, 2):
        first = np.take(maps, [0], axis)
        last = np.take(maps, [-1], axis)
        before = np.concatenate([first, np.delete(maps, -1, axis)], axis)
        behind = np.concatenate([np.delete(maps, 0, axis), last], axis)
        pairs = np.stack([0.25 * before + 0.75 * maps, 0.75 * maps + 0.25 * behind], axis + 1)
        shape = [*maps.shape]
        shape[axis] *= 2
        maps = pairs.reshape(shape)
    return maps.astype(np.float32)


HEAD = OutputHead(
    name="associative-embedding",
    summary="heat maps and tags: HigherHRNet, EfficientHRNet, stacked hourglass",
    source="Newell, Huang and Deng, NeurIPS 2017; HigherHRNet, lib/core/group.py (match_by_tag)",
    preprocess=Preprocess(
        color="rgb",
        mean=(123.675, 116.28, 103.53),
        scale=(1 / 58.395, 1 / 57.12, 1 / 57.375),
        pad_value=0.0,
        multiple=32,
        height=512,
    ),
    find=find,
    people=people,
    parameters={"peak_threshold": 0.1, "min_score": 0.05, "min_part_score": 0.0},
)
