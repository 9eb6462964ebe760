"""Engines measured in turns, and what their times say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graphopt.bench.bench_report import Timing
from graphopt.ir.arrays import Array
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import Engine


def measure(
    engines: Sequence[Engine],
    feeds: Mapping[str, Array],
    *,
    rounds: int,
    warmup_rounds: int,
    pause: float = 0.1,
    after_round: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """Run engines in turns.

    A turn is a pause, one run that is not counted and one that is. The pause lets the idle threads
    of the engine before it, which spin for a while, go to sleep: without it the slowest to wake is
    robbed of a core. The run refills the caches. The order rotates from round to round. Of an
    engine in a process of its own only that process's time counts (`GuestEngine.overhead`).

    Args:
        engines: whom to run.
        feeds: their input.
        rounds: how often each has its turn.
        warmup_rounds: rounds before those, which are not counted.
        pause: seconds before each turn.
        after_round: called after each round, warm-up rounds too.
        clock: seconds.

    Returns:
        [engines, rounds]: milliseconds.
    """
    times = np.empty((len(engines), rounds))
    for number in range(-warmup_rounds, rounds):
        for turn in range(len(engines)):
            which = (number + turn) % len(engines)
            time.sleep(pause)
            engines[which].run(feeds)
            start = clock()
            engines[which].run(feeds)
            spent = clock() - start - getattr(engines[which], "overhead", 0.0)
            if number >= 0:
                times[which, number] = 1e3 * spent
        after_round()
    return times


def summarise(
    names: Sequence[str], times: NDArray[np.float64], subject: str = "graphopt"
) -> tuple[dict[str, Timing], dict[str, float], dict[str, tuple[float, float]]]:
    """Timings, ratios and their spread, by name.

    Args:
        names: the engines.
        times: [engines, rounds], as `measure` gives them.
        subject: the engine whose time the ratios are of; it need not have run.

    Returns:
        Each engine's timing; the subject's median / each other's median; and the 10th and 90th
        percentile of that ratio within single rounds.
    """
    timings = {name: Timing.of(row) for name, row in zip(names, times, strict=True)}
    ratios: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    if subject in timings:
        own = times[list(names).index(subject)]
        for name, row in zip(names, times, strict=True):
            if name != subject:
                ratios[name] = timings[subject].median_ms / timings[name].median_ms
                low, high = np.percentile(own / row, (10, 90))
                spread[name] = (float(low), float(high))
    return timings, ratios, spread


@dataclass
class LineUp:
    """The engines that take part, and those that cannot."""

    engines: list[Engine] = field(default_factory=list)
    difference: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def line_up(
    openers: Mapping[str, Callable[[], Engine]],
    feeds: Mapping[str, Array],
    expected: Mapping[str, Array],
) -> LineUp:
    """Open every engine and compare its outputs with what is expected.

    Args:
        openers: what opens an engine, by name. An error of its own, or of its engine's first run,
            makes the engine unavailable.
        feeds: the input.
        expected: the right outputs.
    """
    result = LineUp()
    for name, opener in openers.items():
        try:
            engine = opener()
            answer = engine.run(feeds)
        except Exception as error:  # engines have exceptions of their own
            result.unavailable[name] = str(error) or type(error).__name__
            continue
        result.engines.append(engine)
        result.difference[name] = max(difference(answer[n], expected[n]) for n in expected)
    return result
