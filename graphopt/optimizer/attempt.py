"""One pass, run on a copy of a network: what it made of it, or how it crashed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.ir.network import Network
from graphopt.optimizer.pass_contract import Context, Outcome, Pass


@dataclass(frozen=True)
class Attempt:
    """What a pass made of a network, before anybody judged it."""

    given: Network
    prepared: Pass[Any] | None
    """The pass that did the work; None where it crashed, and then nothing changed."""
    graph: Network
    outcome: Outcome
    crash: str | None
    seconds: float


def attempt(chosen: Pass[Any], given: Network, context: Context) -> Attempt:
    """Run a pass on a copy of a network; a crash, which may be a plug-in's, becomes a sentence."""
    graph, started = given.copy(), time.perf_counter()
    prepared: Pass[Any] | None = None
    outcome, crash = Outcome((), ()), None
    try:
        prepared = chosen.prepare(graph, context)
        outcome = prepared.sweep(graph)
    except GraphoptError as error:
        prepared, crash = None, error.message
    except Exception as error:
        prepared, crash = None, f"it crashed: {type(error).__name__}: {error}"
    return Attempt(given, prepared, graph, outcome, crash, time.perf_counter() - started)
