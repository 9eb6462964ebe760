"""Which changes of a failed pass are to blame, found by halving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.analysis.compare import PoseChange
from graphopt.ir.network import Network
from graphopt.optimizer.pass_contract import AnyPass, Outcome, Skip


def bisect(
    chosen: AnyPass,
    facts: Any,
    graph: Network,
    outcome: Outcome,
    judge: Callable[[Network], Judgement],
    failed: Judgement,
) -> tuple[Network, Outcome, Judgement]:
    """Take back those changes of a pass that are to blame for its failed check.

    All changes are taken back; then halves of them, quarters … come back as long as the check
    passes. So one culprit among n changes is found in about 2 log2(n) checks, and what a budget
    allows comes back in the order of the graph.

    Args:
        chosen: the pass.
        facts: what it prepared for `graph`.
        graph: the network before the pass.
        outcome: of the pass with all its changes.
        judge: the check.
        failed: its judgement of the pass with all its changes.

    Returns:
        The network, outcome and judgement of what can stay; `failed` as judgement if nothing can.
    """

    def swept(out: frozenset[int]) -> tuple[Network, Outcome]:
        rewritten = graph.copy()
        return rewritten, chosen.sweep(rewritten, facts, without=out)

    def blamed(sites: Sequence[int], out: frozenset[int]) -> frozenset[int]:
        """What of `out` has to stay out once as many of `sites` are back as can be."""
        middle = len(sites) // 2
        for half in (sites[:middle], sites[middle:]) if middle else (sites,):
            if not judge(swept(out - set(half))[0]).failure:
                out -= set(half)
            elif len(half) > 1:
                out = blamed(half, out)
        return out

    everything = frozenset(range(len(outcome.changes)))
    out = blamed(sorted(everything), everything)
    rewritten, kept = swept(out)
    names = [change.node for change in outcome.changes]
    if out == everything or [c.node for c in kept.changes] != [
        name for number, name in enumerate(names) if number not in out
    ]:
        return graph, outcome, failed
    reason = f"taken back: {failed.failure}"
    skips = (*kept.skips, *(Skip(names[number], reason) for number in sorted(out)))
    return rewritten, Outcome(kept.changes, skips), judge(rewritten)


@dataclass(frozen=True)
class Judgement:
    """What a check found of a graph."""

    difference: float | None
    poses: PoseChange | None
    failure: str | None
    over_budget: bool = False
    """Whether `failure` is that key points or outputs move too far."""
    remark: str = ""
