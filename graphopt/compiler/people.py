"""Whether a quantised network's bundle finds the people that onnxruntime finds."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphopt.errors import CheckFailed
from graphopt.ir.arrays import Feeds
from graphopt.ir.onnx_io import serialised
from graphopt.pose.decode import Person, decode
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.preprocess import IDENTITY
from graphopt.pose.similarity import matched
from graphopt.pose.skeleton import Skeleton
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.engine import OnnxRuntimeEngine

ALIKE = 0.75
"""The object key-point similarity from which two people count as the same."""
CLEAR = 0.3
"""The score from which somebody counts: of others a step of quantisation decides whether they are
there."""
LOST = 0.1
"""The part of all people that may differ, where onnxruntime's own answers give the same people."""
NOISES = 2
"""So many times as many may differ as between onnxruntime's own answers, and one more."""


def check_people(
    graph: gs.Graph, pose: PoseSpec, feeds: Sequence[Feeds], outputs: Sequence[Feeds]
) -> str:
    """Compare the people in a bundle's maps with those in onnxruntime's.

    Args:
        graph: what was compiled; onnxruntime runs it as it is written, and as it optimises it.
        pose: where its maps are.
        feeds: the network's inputs for some pictures.
        outputs: what the bundle gives for them.

    Returns:
        What to say of it; nothing where nobody is found.

    Raises:
        CheckFailed: too many people are not where they should be.
    """
    with serialised(graph) as model:
        written, whole = OnnxRuntimeEngine(model, optimize=False), OnnxRuntimeEngine(model)
    people = unlike = noise = 0
    for feed, maps in zip(feeds, outputs, strict=True):
        known = _people(written.run(feed), pose)
        people += _clear(known)
        unlike += _unlike(known, _people(maps, pose), pose.skeleton)
        noise += _unlike(known, _people(whole.run(feed), pose), pose.skeleton)
    told = (
        f"{unlike} of {people} people are not where onnxruntime finds them, {noise} in its own "
        "answers"
    )
    if unlike > max(LOST * people, NOISES * noise + 1):
        raise CheckFailed(told, hint="please report the network: this is an error in graphopt")
    return told if people else ""


def _people(maps: Feeds, pose: PoseSpec) -> Sequence[Person]:
    return decode(maps, pose, IDENTITY, DecodeOptions()).people


def _unlike(known: Sequence[Person], found: Sequence[Person], skeleton: Skeleton) -> int:
    """How many clear people only one of the two has."""
    pairs = matched(known, found, skeleton, min_oks=ALIKE)
    first, second = {a for a, _ in pairs}, {b for _, b in pairs}
    return max(_clear(known, first), _clear(found, second))


def _clear(people: Sequence[Person], but: set[int] | frozenset[int] = frozenset()) -> int:
    """How many people are clear, without some."""
    return sum(p.score >= CLEAR for i, p in enumerate(people) if i not in but)
