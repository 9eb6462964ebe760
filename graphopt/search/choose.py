"""The plain function behind a wish of `graphopt optimize`, such as `--speedup 2`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from graphopt.ir.files import replacing
from graphopt.optimizer.optimize import ANY_SIZE
from graphopt.optimizer.options import OptimizeOptions
from graphopt.optimizer.places import place_for
from graphopt.optimizer.wishes import check_wishes, wishes
from graphopt.runtime.bundle import check_place
from graphopt.search.frontier import Point, Rejected, levers
from graphopt.search.options import LOCAL, SearchOptions
from graphopt.search.report import SearchReport
from graphopt.search.search import search_for

MINUTES = 30.0
"""How long is searched at most, unless told otherwise."""


def choose(
    path: Path,
    output: Path | None,
    options: OptimizeOptions,
    *,
    report: Path | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> SearchReport:
    """Search for the network that fulfils a wish, and write it, with its bundle where measured.

    Everything that is tried is kept in `NAME.search` beside the input, as `search` keeps it.

    Args:
        path: the network.
        output: where the result goes; without it `NAME.opt.onnx` beside the input.
        options: the wish, the photos, the device.
        report: a file to write the report's JSON to.
        force: allow the output to replace the input.
        progress: told what is being done.
        clock: seconds.

    Raises:
        UsageError: options contradict each other.
        CheckFailed: nothing fulfils the wish; says what comes closest.
        GraphoptError: see `search.search`.
    """
    check_wishes(options)
    output = place_for(path, output, report, force=force)
    searched = as_search(options)
    if searched.device == LOCAL:
        check_place(output.with_suffix(".graphopt"))
    found = search_for(
        path,
        output,
        path.with_name(f"{path.stem}.search"),
        searched,
        any_size=options.input_shape == ANY_SIZE,
        progress=progress,
        clock=clock,
    )
    if report:
        with replacing(report) as fresh:
            fresh.write_text(found.to_json(indent=2) + "\n", encoding="utf-8")
    return found


def as_search(options: OptimizeOptions) -> SearchOptions:
    """The search that answers a wish."""
    assert options.calib is not None
    usual = OptimizeOptions.calib_photos == options.calib_photos
    return SearchOptions(
        calib=options.calib,
        calib_photos=SearchOptions.calib_photos if usual else options.calib_photos,
        annotations=options.annotations,
        images=options.images,
        device=options.device or LOCAL,
        budget_minutes=options.budget_minutes or MINUTES,
        pick=",".join(f"{what}={value:g}" for what, value in wishes(options).items()),
        pose=options.pose,
    )


def verdict(report: SearchReport) -> Iterator[str]:
    """What was chosen, by which levers and at what cost, beside a smaller photo; a line each."""
    picked, original = report.picked, report.reference
    assert picked is not None
    point = picked.point
    measure = "self-AP" if point.ap is None else "AP"
    where, kind = "here", "from pixels to people, measured"
    if report.device != LOCAL:
        where, kind = f"on {report.device}", "of the network, predicted"
    yield (
        f"{picked.network}: {original.ms / point.ms:.2f} times as fast {where} "
        f"({original.ms:.1f} → {point.ms:.1f} ms {kind}); {measure} {point.quality:.3f}, the "
        f"original's {original.quality:.3f}"
    )
    yield _taken(report)
    yield _instead(report)


def _taken(report: SearchReport) -> str:
    """Which levers were pulled, and which were tried and left."""
    assert report.picked is not None
    tried: dict[str, None] = {}
    everything: list[Point | Rejected] = [*report.frontier, *report.plain, *report.rejected]
    for one in everything:
        tried |= dict.fromkeys(levers(one, report.reference))
    pulled = report.picked.levers
    taken = ", ".join(f"{name} ({how})" for name, how in pulled.items()) or "nothing"
    left = ", ".join(name for name in tried if name not in pulled)
    return f"taken: {taken}" + (f"; not taken: {left}" if left else "")


def _instead(report: SearchReport) -> str:
    """What a smaller photo alone would keep."""
    picked = report.picked
    assert picked is not None
    if not picked.levers:
        return "the original itself is fast enough"
    if [*picked.levers] == ["height"]:
        return "it is the original with smaller photos; no other lever keeps more that fast"
    if picked.smaller is None:
        return "no smaller photo alone that was tried is that fast"
    return (
        f"the original with smaller photos alone, in {report.reference.precision}, keeps "
        f"{picked.smaller:.3f} that fast"
    )


def notes(report: SearchReport) -> Iterator[str]:
    """How it was judged, and what was not tried."""
    if report.reference.ap is None:
        yield (
            f"self-AP: COCO's AP on {report.photos} photos that nothing was fitted to, with the "
            "people that the original is surest of as the truth; real AP: --annotations F.json "
            "--images DIR"
        )
    late = [one.why for one in report.rejected if one.why.startswith("not tried")]
    if late:
        yield f"{len(late)} candidates were {late[0]}; the same command goes on with them"


def next_step(report: SearchReport) -> str:
    """What to do with what was written."""
    picked = report.picked
    assert picked is not None
    if picked.bundle:
        return (
            f"written: {picked.bundle}, too; next: graphopt run {shlex.quote(picked.bundle)} PHOTO"
        )
    low = picked.point.precision
    more = {"float16": " --precision float16 --target opencl", "bfloat16": " --precision bfloat16"}
    return f"next: graphopt compile {shlex.quote(picked.network)}{more.get(low, '')}"
