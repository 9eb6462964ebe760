"""People from limbs: fragments that limbs join, in one task, since each step needs the last.

The meaning is step 5 of `graphopt.pose.decode`, as far as whose each peak is.
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
    view,
)
from graphopt.codegen.kernels.limbs import FIELDS, LimbSpec
from graphopt.codegen.targets import Target


def build(spec: LimbSpec, target: Target) -> Any:
    """The kernel as a TIR PrimFunc.

    Parameters: limbs as `limbs.pack_limbs` gives them; peaks, counts, ends, scores and chosen as
    `peaks.build` and `limbs.build` give them; owner (parts, max_peaks), int32: the fragment that
    each peak is in, called by the number that its first peak has among all places for peaks; totals
    (parts, max_peaks): each fragment's sum of scores, at the place of that peak.
    """
    count, most, parts = len(spec.limbs), spec.max_peaks, spec.parts
    with kernel("find_people") as get:
        limbs = argument("limbs", (count, FIELDS), "int32")
        peaks = argument("peaks", (parts, most, 3))
        counts = argument("counts", (parts, 3), "int32")
        ends = argument("ends", (count, most, 2), "int32")
        scores = argument("scores", (count, most))
        chosen = argument("chosen", (count, 1), "int32")
        owner = argument("owner", (parts, most), "int32")
        totals = argument("totals", (parts, most))
        fragments = _Fragments(spec, owner, totals)
        head = scratch((count,), "int32")
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
    return get()


class _Fragments:
    """Sets of peaks of different parts; a peak is called by its place among all that could be."""

    def __init__(self, spec: LimbSpec, owner: Expr, totals: Expr) -> None:
        self._parts, self._most = spec.parts, spec.max_peaks
        places = spec.parts * spec.max_peaks
        self._owner, self._total = view(owner, (places,)), view(totals, (places,))
        self._size = scratch((places,), "int32")
        self._members = scratch((places, spec.parts), "int32")

    def begin(self, part: Expr, peak: Expr, score: Expr) -> None:
        """A fragment of one peak."""
        place = T.bind(part * self._most + peak)
        T.buffer_store(self._owner, place, [place])
        T.buffer_store(self._total, score, [place])
        T.buffer_store(self._size, 1, [place])
        with T.serial(0, self._parts) as other:
            T.buffer_store(self._members, -1, [place, other])
        T.buffer_store(self._members, place, [place, part])

    def join(self, target: Target, start: Expr, end: Expr, score: Expr, bridge: Expr) -> None:
        """Make one of two peaks' fragments, unless they have a part in common.

        A bridge does not join two single peaks.
        """
        members, size, total = self._members, self._size, self._total
        a, b = T.bind(self._owner[start]), T.bind(self._owner[end])
        common = Variable(target, "int32", 0)
        with T.serial(0, self._parts) as part:
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
                    with T.serial(0, self._parts) as part:
                        moved = T.bind(members[b, part])
                        with T.If(moved >= 0), T.Then():
                            T.buffer_store(members, moved, [a, part])
                            T.buffer_store(self._owner, a, [moved])
