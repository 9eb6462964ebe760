"""`graphopt heads`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.pose.options import PoseOptions


@takes_options
def heads(
    *,
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE|IN.onnx]", help="The pose network."),
    ] = None,
    options: PoseOptions,
    json: shared.Json = None,
) -> None:
    """Say which head a network has, why, and its parameters; without one, list the heads.

    A head is what a network's outputs mean. --json gives what a bundle keeps as pose.json.
    """
    from graphopt.display.tables import Grid, Kind, console, say
    from graphopt.pose.head_choice import all_heads, head_of
    from graphopt.pose.open import find_spec

    if model is None:
        listed = [
            {"name": head.name, "summary": head.summary, "source": head.source}
            for head in all_heads().values()
        ]
        if shared.put_json(json, listed):
            return
        table = Grid({"head": Kind.KEY, "outputs": Kind.WORDS, "source": Kind.WORDS})
        for entry in listed:
            table.add(entry["name"], entry["summary"], entry["source"])
        console().print(table)
        return
    spec = find_spec(model, **options.choices())
    head = head_of(spec)
    plain = spec.to_plain()
    if shared.put_json(json, {"head": head.name, **plain}):
        return
    say(f"{head.name}: {head.summary}")
    say(f"decoded as by {head.source}")
    for name, finding in spec.notes.items():
        say(f"{name}: {finding.how} ({finding.why})")
    read = plain.get("outputs") or {k: v for k in ("heat", "paf") if (v := plain.get(k))}
    for role, output in read.items():
        say(f"{role}: {output if isinstance(output, str) else getattr(spec, role)}")
    for name, value in plain.get("parameters", {}).items():
        say(f"{name} = {value:g}")
    say(f"skeleton {spec.skeleton.name}, {len(spec.skeleton.parts)} parts")
    for line in spec.guesses:
        say(line, style="dim", stderr=True)
