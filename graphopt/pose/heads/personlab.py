"""Heat maps, offsets and displacements: PoseNet, PersonLab's mid-range displacements.

Outputs are maps of 17 key points, 34 offsets (rows, then columns, in pixels of the input) and twice
32 displacements along 16 edges of a tree, from parents to children (forward) and back; channels
first or last. The best key point that is left begins a person, and displacements lead from there to
the others; where a person of before has the same key point near, nobody begins.
"""

from collections.abc import Iterator

import numpy as np

from graphopt.pose.head import Answers, FloatArray, Found, Look, OutputHead
from graphopt.pose.spec import Preprocess

PARTS = 17
EDGES = (
    *((0, 1), (1, 3), (0, 2), (2, 4), (0, 5), (5, 7), (7, 9), (5, 11)),
    *((11, 13), (13, 15), (0, 6), (6, 8), (8, 10), (6, 12), (12, 14), (14, 16)),
)
"""The tree's, each from parent to child, as places in COCO's order."""
CHANNELS = (PARTS, 2 * PARTS, 2 * len(EDGES), 2 * len(EDGES))
ROLES = ("heat", "offsets", "forward", "backward")
REFINED = 2
"""How often a position is refined by its offset."""


def find(look: Look) -> Iterator[Found]:
    """Four outputs of one size, channels first or last; names or the order tell the last two."""
    for axis in (1, 3):
        maps = {n: s for n, s in look.shapes().items() if len(s) == 4 and s[0] == 1}
        by_count = {c: [n for n, s in maps.items() if s[axis] == c] for c in CHANNELS}
        if any(len(names) != CHANNELS.count(c) for c, names in by_count.items()):
            continue
        heat, offsets = by_count[PARTS][0], by_count[2 * PARTS][0]
        ways = by_count[2 * len(EDGES)]
        named = [("fwd" in n or "forward" in n) - ("bwd" in n or "backward" in n) for n in ways]
        if named[0] < named[1]:
            ways = ways[::-1]
        names = (heat, offsets, *ways)
        values = look.probe.values[heat].astype(np.float64)
        logits = bool(values.min() < 0 or values.max() > 1)
        yield Found(
            dict(zip(ROLES, names, strict=True)),
            PARTS,
            f"{', '.join(f'{n} {list(maps[n])}' for n in names)}: heat maps, offsets, displacements"
            + ("; heat maps are logits" if logits else ""),
            {"channels_last": float(axis == 3), "logits": float(logits)},
            guessed=named[0] == named[1],
        )
        return


def people(answers: Answers) -> tuple[FloatArray, FloatArray]:
    """People in the order in which they begin; scores leave out what others of before have."""
    given = {role: answers[role][0] for role in ROLES}
    if answers.parameters["channels_last"]:
        given = {role: np.moveaxis(value, 2, 0) for role, value in given.items()}
    heat = given["heat"]
    if answers.parameters["logits"]:
        heat = (1 / (1 + np.exp(-heat.clip(-80, 80)))).astype(np.float32)
    _, height, width = heat.shape
    stride = round((answers.size[0] - 1) / max(height - 1, 1))
    # [h, w, vectors, 2]: rows and columns.
    moves = {r: given[r].reshape(2, -1, height, width).transpose(2, 3, 1, 0) for r in ROLES[1:]}

    def cell(point: FloatArray) -> tuple[int, int]:
        # Half up, as JavaScript's Math.round.
        row, column = np.floor(point / stride + 0.5).clip(0, (height - 1, width - 1)).astype(int)
        return int(row), int(column)

    def refined(part: int, at: tuple[int, int]) -> FloatArray:
        place: FloatArray = np.array(at, np.float32) * stride + moves["offsets"][at][part]
        return place

    found: list[FloatArray] = []
    scores: list[float] = []
    radius = answers.parameters["radius"] ** 2
    for part, row, column in _candidates(heat, answers.parameters["peak_threshold"]):
        if len(found) == answers.options.max_people:
            break
        root = refined(part, (row, column))
        if any(((p[part, :2] - root) ** 2).sum() <= radius for p in found):
            continue
        person = np.zeros((PARTS, 3), np.float32)
        person[part] = *root, heat[part, row, column]
        reached = {part}
        back = [(*EDGES[e][::-1], e, "backward") for e in reversed(range(len(EDGES)))]
        for start, end, edge, way in [*back, *((*e, n, "forward") for n, e in enumerate(EDGES))]:
            if start not in reached or end in reached:
                continue
            point = person[start, :2] + moves[way][cell(person[start, :2])][edge]
            for _ in range(REFINED):
                point = refined(end, cell(point))
            person[end] = *point, heat[end][cell(point)]
            reached.add(end)
        near = [((p[:, :2] - person[:, :2]) ** 2).sum(axis=1) <= radius for p in found]
        own = ~np.any(near, axis=0) if near else np.ones(PARTS, bool)
        found.append(person)
        scores.append(float(person[own, 2].sum()) / PARTS)
    everybody = np.array(found, np.float32).reshape(-1, PARTS, 3)
    return everybody[..., [1, 0, 2]], np.array(scores, np.float32)


def _candidates(heat: FloatArray, threshold: float) -> list[list[int]]:
    """(part, row, column) of pixels that no neighbour exceeds, best first, ties as they lie."""
    bordered = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(bordered, (3, 3), axis=(1, 2))
    places = np.argwhere((heat >= threshold) & (heat >= windows.max(axis=(3, 4))))
    order = np.argsort(-heat[tuple(places.T)], kind="stable")
    listed: list[list[int]] = places[order].tolist()
    return listed


HEAD = OutputHead(
    name="personlab",
    summary="heat maps, offsets and displacements: PoseNet (17, 34, 32 and 32 maps)",
    source="Papandreou et al., PersonLab, ECCV 2018; tfjs-models, posenet/src/multi_pose",
    preprocess=Preprocess(
        color="rgb",
        mean=(127.5,) * 3,
        scale=(1 / 127.5,) * 3,
        pad_value=0.0,
        multiple=16,
        height=257,
    ),
    find=find,
    people=people,
    parameters={
        "peak_threshold": 0.5,
        "radius": 20.0,
        "min_score": 0.25,
        "min_part_score": 0.1,
        "channels_last": 0.0,
        "logits": 0.0,
    },
)
