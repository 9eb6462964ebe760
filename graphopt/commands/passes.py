"""`graphopt passes`: which passes there are, and their manual pages."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.optimizer.options import PassesOptions

passes_app = typer.Typer(
    help="List the passes there are, and show their manual pages.", no_args_is_help=True
)


@passes_app.command("list")
@takes_options
def list_passes(*, options: PassesOptions, json: shared.Json = None) -> None:
    """Every pass with its numerics and what it does, then the presets."""
    from graphopt.display.tables import Grid, Kind, console, say
    from graphopt.optimizer.manual import catalogue
    from graphopt.optimizer.registry import find_passes
    from graphopt.optimizer.syntax import PRESETS

    found = find_passes(options.load)
    entries = catalogue(found.values())
    broken = [problem.to_plain() for problem in found.broken]
    value = {"passes": entries, "presets": dict(PRESETS), "broken": broken}
    if shared.put_json(json, value):
        return
    columns = {"pass": Kind.KEY, "numerics": Kind.WORDS, "what it does": Kind.WORDS}
    table = Grid(columns)
    for entry in entries:
        other = [f"{with_}: {n}" for with_, n in entry["numerics_with"].items()]
        table.add(entry["name"], "\n".join([entry["numerics"], *other]), entry["summary"])
    for problem in found.broken:
        names = "\n".join(problem.names) or problem.origin
        table.add(names, "broken", f"{problem.origin}: {problem.reason}")
    console().print(table)
    for name, pipeline in PRESETS.items():
        say(f"preset {name}: {pipeline}")


@passes_app.command("show")
@takes_options
def show(
    *,
    name: Annotated[str, typer.Argument(help="The pass.")],
    options: PassesOptions,
    json: shared.Json = None,
) -> None:
    """A pass's manual page and options."""
    from graphopt.display.tables import say_page
    from graphopt.optimizer.manual import catalogue
    from graphopt.optimizer.registry import find_passes
    from graphopt.optimizer.syntax import lookup

    chosen = lookup(name, find_passes(options.load))
    (entry,) = catalogue([chosen])
    if not shared.put_json(json, entry):
        other = [f"{with_}: {n}" for with_, n in entry["numerics_with"].items()]
        numerics = "; ".join([entry["numerics"], *other])
        say_page(f"{chosen.name} ({numerics})\n\n{entry['manual']}")
