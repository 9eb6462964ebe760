"""`graphopt passes`: which passes there are, and their manual pages."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.commands import options
from graphopt.commands.grammar import Command

passes_app = typer.Typer(
    help="List the passes there are, and show their manual pages.", no_args_is_help=True
)


@passes_app.command("list", cls=Command)
def list_passes(load: options.Load = None, json: options.Json = None) -> None:
    """Every pass with its numerics and what it does, then the presets."""
    from graphopt.passbase import catalogue
    from graphopt.pipeline import PRESETS
    from graphopt.registry import find_passes
    from graphopt.report import console

    entries = catalogue(find_passes(load or []).values())
    if options.put_json(json, {"passes": entries, "presets": dict(PRESETS)}):
        return
    from rich.table import Table

    table = Table("pass", "numerics", "what it does")
    for entry in entries:
        table.add_row(entry["name"], entry["numerics"], entry["summary"])
    console().print(table)
    for name, pipeline in PRESETS.items():
        console().print(f"preset {name}: {pipeline}", highlight=False)


@passes_app.command("show", cls=Command)
def show(
    name: Annotated[str, typer.Argument(help="The pass.")],
    load: options.Load = None,
    json: options.Json = None,
) -> None:
    """A pass's manual page and options."""
    from graphopt.passbase import catalogue, manual_of
    from graphopt.pipeline import lookup
    from graphopt.registry import find_passes

    chosen = lookup(name, find_passes(load or []))
    if not options.put_json(json, catalogue([chosen])[0]):
        typer.echo(f"{chosen.name} ({chosen.numerics.value})\n\n{manual_of(chosen)}")
