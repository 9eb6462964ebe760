"""One pass, run on a copy of a network: what it made of it, or how it crashed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.ir.network import Network
from graphopt.optimizer.pass_contract import AnyPass, Context, Numerics, Outcome


@dataclass(frozen=True)
class Attempt:
    """What a pass made of a network, before anybody judged it."""

    given: Network
    graph: Network
    facts: Any
    """What the pass prepared; None where it crashed, and then nothing changed."""
    numerics: Numerics
    """What it promises."""
    outcome: Outcome
    crash: str | None
    seconds: float


def attempt(chosen: AnyPass, given: Network, context: Context) -> Attempt:
    """Run a pass on a copy of a network; a crash, which may be a plug-in's, becomes a sentence."""
    graph, started = given.copy(), time.perf_counter()
    facts, numerics = None, chosen.numerics
    outcome, crash = Outcome((), ()), None
    try:
        facts = chosen.prepare(graph, context)
        outcome = chosen.sweep(graph, facts)
        numerics = chosen.numerics_given(facts)
    except GraphoptError as error:
        facts, crash = None, error.message
    except Exception as error:
        facts, crash = None, f"it crashed: {type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    return Attempt(given, graph, facts, numerics, outcome, crash, seconds)
