"""`graphopt optimize`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.output import Level, level, remark
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown
from graphopt.errors import UsageError
from graphopt.optimizer.options import OptimizeOptions


@takes_options
def optimize(
    *,
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The result; IN.opt.onnx beside the input if left out."
        ),
    ] = None,
    options: OptimizeOptions,
    report: Annotated[
        Path | None,
        typer.Option(help="As --json F.json, written together with the network.", metavar="F.json"),
    ] = None,
    json: shared.Json = None,
    dump_dir: Annotated[
        Path | None,
        typer.Option(
            help="An empty folder for the network after each pass: 00-input.onnx, 01-PASS.onnx …",
            metavar="DIR",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Allow -o to be the input.")] = False,
) -> None:
    """Rewrite a network pass by pass, each checked against the original.

    With --speedup, --latency-ms or --max-ap-drop, and photos, what is done is chosen from smaller
    photos, lower precision, fewer stages and pruning: measured, and told beside what a smaller
    photo alone would keep.
    """
    from graphopt.display.tables import console, say
    from graphopt.fitting.distill_options import leads
    from graphopt.optimizer.optimize import optimize as run
    from graphopt.optimizer.wishes import check_wishes, wishes

    check_wishes(options)
    if wishes(options):
        _choose(model, output, options, report, json, dump_dir, force=force)
        return
    with ExitStack() as stack, shown("reading the network") as tell:
        if not leads():
            # Its files would be those of the first process, and are not needed.
            folder = Path(stack.enter_context(TemporaryDirectory()))
            output, report, dump_dir = folder / "same.onnx", None, None
        result = run(
            model,
            output,
            options,
            report=report,
            dump_dir=dump_dir,
            force=force,
            progress=tell,
        )
    if not leads() or shared.put_json(json, result.to_plain()):
        return
    first, then = result.verdict()
    say(first, style="bold")
    say(then, style="green")
    if level() > Level.QUIET:
        console().print(*result.parts(verbose=level() is Level.VERBOSE), sep="\n")


def _choose(
    model: Path,
    output: Path | None,
    options: OptimizeOptions,
    report: Path | None,
    json: str | None,
    dump_dir: Path | None,
    *,
    force: bool,
) -> None:
    """Search for what is wished for; arguments as in `optimize`."""
    from graphopt.display.tables import console, say
    from graphopt.search.choose import MINUTES, choose, next_step, notes, verdict

    if dump_dir is not None:
        raise UsageError("--dump-dir is of passes in a row, and a search tries many such rows")
    minutes = options.budget_minutes or MINUTES
    remark(
        f"searching for {minutes:g} minutes at most (--budget-minutes), on "
        f"{options.device or 'this machine (--device NAME for another)'}"
    )
    with shown("reading the network") as tell:
        found = choose(model, output, options, report=report, force=force, progress=tell)
    if shared.put_json(json, found.to_plain()):
        return
    first, *more = verdict(found)
    say(first, style="bold")
    for line in more:
        say(line)
    if level() > Level.QUIET:
        for line in notes(found):
            say(line, style="dim")
    if level() is Level.VERBOSE:
        console().print(*found.parts(verbose=True), sep="\n")
    say(next_step(found), style="green")
