"""People from limbs: fragments that limbs join, in one task, since each step needs the last.

The reference is step 5 of `graphopt.pose.decode`, but that key points stay in pixels of the maps.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import (
    Expr,
    Variable,
    argument,
    constant,
    grid,
    kernel,
    scratch,
)
from graphopt.codegen.kernels.pose.limbs import FIELDS, LimbSpec
from graphopt.codegen.kernels.pose.peaks import THRESHOLDS
from graphopt.codegen.targets import Target


def build(spec: LimbSpec, max_people: int, target: Target) -> Any:
    """The kernel as a TIR PrimFunc.

    Parameters: thresholds; limbs as `limbs.pack_limbs` gives them; peaks, counts, ends, scores and
    chosen as `peaks.build` and `limbs.build` give them; people (max_people, parts, 3): x, y and
    score of their peaks, all zero for a part that is missing, the best person first; worth
    (max_people,): their scores; found (2,), int32: people that were kept, and that were found.
    """
    count, most, parts = len(spec.limbs), spec.max_peaks, spec.parts
    with kernel("find_people") as get:
        thresholds = argument("thresholds", (THRESHOLDS,))
        limbs = argument("limbs", (count, FIELDS), "int32")
        peaks = argument("peaks", (parts, most, 3))
        counts = argument("counts", (parts, 3), "int32")
        ends = argument("ends", (count, most, 2), "int32")
        scores = argument("scores", (count, most))
        chosen = argument("chosen", (count, 1), "int32")
        people = argument("people", (max_people, parts, 3))
        worth = argument("worth", (max_people,))
        found = argument("found", (2,), "int32")
        fragments = _Fragments(spec)
        head = scratch((count,), "int32")
        order = scratch((max_people,), "int32")
        with grid(target, 1):
            with T.serial(0, parts) as part, T.serial(0, T.bind(counts[part, 0])) as peak:
                fragments.begin(part, peak, peaks[part, peak, 2])
            with T.serial(0, count) as limb:
                T.buffer_store(head, 0, [limb])
            # The limbs of each kind fall in score: the best of all is the best of their heads.
            with T.serial(0, 2) as bridges:
                more = Variable(target, "int32", 1)
                with T.While(more.value > 0):
                    best = Variable(target, "int32", -1)
                    best_score = Variable(target, "float32", constant(0.0))
                    with T.serial(0, count) as limb:
                        left = tirx.all(limbs[limb, 4] == bridges, head[limb] < chosen[limb, 0])
                        with T.If(left), T.Then():
                            score = T.bind(scores[limb, head[limb]])
                            with T.If(score > best_score.value), T.Then():
                                best.value, best_score.value = limb, score
                    more.value = T.cast(best.value >= 0, "int32")
                    with T.If(more.value > 0), T.Then():
                        limb = T.bind(best.value)
                        place = T.bind(head[limb])
                        a, b = (
                            T.bind(limbs[limb, i] * most + ends[limb, place, i]) for i in (0, 1)
                        )
                        fragments.join(target, a, b, best_score.value, bridges)
                        T.buffer_store(head, place + 1, [limb])
            kept = _ranked(fragments, target, thresholds, counts, order, worth, found)
            with T.serial(0, kept) as i, T.serial(0, parts) as part:
                member = T.bind(fragments.members[order[i], part])
                peak = T.bind(T.max(member - part * most, 0))
                for k in range(3):
                    value = tirx.Select(member >= 0, peaks[part, peak, k], constant(0.0))
                    T.buffer_store(people, value, [i, part, k])
    return get()


def _ranked(
    fragments: _Fragments,
    target: Target,
    thresholds: Expr,
    counts: Expr,
    order: Expr,
    worth: Expr,
    found: Expr,
) -> Expr:
    """Write down which fragments are people, the best first; how many are kept."""
    limit = int(order.shape[0])
    kept, total = (Variable(target, "int32", 0) for _ in range(2))
    least_parts, least_score = T.bind(T.cast(thresholds[3], "int32")), T.bind(thresholds[4])
    with (
        T.serial(0, fragments.parts) as part,
        T.serial(0, T.bind(counts[part, 0])) as peak,
    ):
        place = T.bind(part * fragments.most + peak)
        score = T.bind(fragments.total[place] / constant(float(fragments.full)))
        enough = tirx.all(fragments.size[place] >= least_parts, score >= least_score)
        with T.If(tirx.all(fragments.owner[place] == place, enough)), T.Then():
            total.value = total.value + 1
            at = Variable(target, "int32", kept.value)
            # Of equals the first stays ahead.
            with T.While(tirx.all(at.value > 0, worth[T.max(at.value - 1, 0)] < score)):
                at.value = at.value - 1
                with T.If(at.value + 1 < limit), T.Then():
                    for buffer in (order, worth):
                        T.buffer_store(buffer, buffer[at.value], [at.value + 1])
            with T.If(at.value < limit), T.Then():
                T.buffer_store(order, place, [at.value])
                T.buffer_store(worth, score, [at.value])
            kept.value = T.min(kept.value + 1, limit)
    for i, number in enumerate((kept, total)):
        T.buffer_store(found, number.value, [i])
    return T.bind(kept.value)


class _Fragments:
    """Sets of peaks of different parts; a peak is called by its place among all that could be."""

    def __init__(self, spec: LimbSpec) -> None:
        self.parts, self.most = spec.parts, spec.max_peaks
        self.full = spec.parts + len(spec.limbs)
        places = spec.parts * spec.max_peaks
        self.owner = scratch((places,), "int32")
        self.total = scratch((places,))
        self.size = scratch((places,), "int32")
        self.members = scratch((places, spec.parts), "int32")

    def begin(self, part: Expr, peak: Expr, score: Expr) -> None:
        """A fragment of one peak."""
        place = T.bind(part * self.most + peak)
        T.buffer_store(self.owner, place, [place])
        T.buffer_store(self.total, score, [place])
        T.buffer_store(self.size, 1, [place])
        with T.serial(0, self.parts) as other:
            T.buffer_store(self.members, -1, [place, other])
        T.buffer_store(self.members, place, [place, part])

    def join(self, target: Target, start: Expr, end: Expr, score: Expr, bridge: Expr) -> None:
        """Make one of two peaks' fragments, unless they have a part in common.

        A bridge does not join two single peaks.
        """
        members, size, total = self.members, self.size, self.total
        a, b = T.bind(self.owner[start]), T.bind(self.owner[end])
        common = Variable(target, "int32", 0)
        with T.serial(0, self.parts) as part:
            both = tirx.all(members[a, part] >= 0, members[b, part] >= 0)
            common.value = common.value + T.cast(both, "int32")
        with T.If(a == b):
            with T.Then():
                T.buffer_store(total, total[a] + score, [a])
            with T.Else():
                single = tirx.all(bridge == 1, size[a] == 1, size[b] == 1)
                with T.If(tirx.all(common.value == 0, tirx.Not(single))), T.Then():
                    T.buffer_store(total, total[a] + total[b] + score, [a])
                    T.buffer_store(size, size[a] + size[b], [a])
                    with T.serial(0, self.parts) as part:
                        moved = T.bind(members[b, part])
                        with T.If(moved >= 0), T.Then():
                            T.buffer_store(members, moved, [a, part])
                            T.buffer_store(self.owner, a, [moved])
