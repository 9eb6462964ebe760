"""The plain functions behind `graphopt search`, and behind a wish of `graphopt optimize`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from graphopt.errors import CheckFailed
from graphopt.pose.evaluate import check_judged
from graphopt.search.budget import Budget
from graphopt.search.frontier import Wish
from graphopt.search.material import owner_of, photos_for
from graphopt.search.notebook import Notebook
from graphopt.search.options import SearchOptions
from graphopt.search.pick import write
from graphopt.search.report import SearchReport
from graphopt.search.subject import Subject
from graphopt.search.survey import Survey
from graphopt.search.workshop import Workshop


def search(
    path: Path,
    folder: Path,
    options: SearchOptions,
    *,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> SearchReport:
    """Try every lever on a pose network, alone and together, and keep what none beats.

    A stopped search goes on from its folder; what was done there is not done again.

    Args:
        path: the network.
        folder: for networks, bundles and results.
        options: what is tried, and what it is judged on.
        progress: told what is being done.
        clock: seconds.

    Raises:
        GraphoptError: the network, the photos or the options cannot be used; the original cannot
            be compiled.
        CheckFailed: nothing fulfils the wish of `pick`.
    """
    wish = Wish.read(options.pick) if options.pick else None
    run = _begun(path, folder, options, progress, clock)
    report = run.report()
    return _picked(run, wish, report) if wish else report


def search_for(
    path: Path,
    output: Path,
    folder: Path,
    options: SearchOptions,
    *,
    any_size: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> SearchReport:
    """Search for what `pick` wishes for only, and write that.

    What is expected to be far slower or faster than it asks for is not tried. A folder that holds
    another search is left alone: there is another beside it then.

    Args:
        path, options, progress, clock: as in `search`.
        output: where the network goes; a bundle goes beside it.
        folder: as in `search`.
        any_size: whether the network is to take photos of any size, not only of the best.

    Raises:
        GraphoptError: as `search`.
    """
    assert options.pick is not None
    wish = Wish.read(options.pick)
    run = _begun(path, folder, options, progress, clock, wish)
    return _picked(run, wish, run.report(), output, any_size=any_size)


def _begun(
    path: Path,
    folder: Path,
    options: SearchOptions,
    progress: Callable[[str], None],
    clock: Callable[[], float],
    wish: Wish | None = None,
) -> Survey:
    """A search whose network, photos and notebook are there; arguments as in `search`."""
    started = clock()
    progress("reading the network")
    fine = wish is not None and wish.most_ms(1.0) < math.inf
    subject = Subject.read(path, options, fine=fine)
    check_judged(subject.spec.skeleton)
    photos, truth, options = photos_for(subject, options)
    owner = owner_of(subject, photos, options)
    folder = Notebook.apart(folder, owner) if wish else folder
    workshop = Workshop(subject, options, folder, Notebook(folder, owner))
    budget = Budget(options.budget_minutes, lambda: (clock() - started) / 60)
    return Survey(workshop, photos, truth, progress, budget, wish)


def _picked(
    run: Survey,
    wish: Wish,
    report: SearchReport,
    output: Path | None = None,
    *,
    any_size: bool = True,
) -> SearchReport:
    """The report with what fulfils a wish best, written; arguments as in `pick.write`.

    Raises:
        CheckFailed: nothing does.
    """
    try:
        point = wish.best(report.frontier, report.reference)
    except CheckFailed as error:
        left = sum(one.why == run.budget.over for one in report.rejected)
        hint = f"{left} candidates were {run.budget.over}; the same command goes on with them"
        raise CheckFailed(error.message, hint=hint if left else None) from None
    (candidate,) = (one for one, found in run.points.items() if found == point)
    written = write(
        wish, candidate, point, report, run.workshop, run.progress, output, any_size=any_size
    )
    return replace(report, picked=written)
