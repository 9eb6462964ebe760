"""`graphopt zoo`: published pose networks, built from their definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.grammar import Command
from graphopt.commands.parameters import takes_options
from graphopt.zoo.options import BuildOptions

zoo_app = typer.Typer(
    help="Build published pose networks, untrained, to be measured or trained.",
    no_args_is_help=True,
)


@zoo_app.command("list", cls=Command)
def list_networks(json: shared.Json = None) -> None:
    """Every network with its parameters and multiply-adds at the input size it is known for."""
    from graphopt.display.numbers import human
    from graphopt.display.tables import Grid, Kind, console, say
    from graphopt.zoo.catalogue import catalogue

    entries = list(catalogue())
    if shared.put_json(json, [entry.to_plain() for entry in entries]):
        return
    numbers = dict.fromkeys(("input", "params", "MACs"), Kind.NUMBER)
    words = dict.fromkeys(("counts", "source", "options"), Kind.WORDS)
    table = Grid({"network": Kind.KEY, **numbers, **words})
    for entry in entries:
        size = f"{entry.input}x{entry.input}"
        cost = (human(entry.params), human(entry.macs))
        table.add(entry.name, size, *cost, entry.counts, entry.source, entry.options)
    console().print(table)
    say(
        "Parameters without the statistics of normalisations. Inferred: the source gives no "
        "definition. Not reproduced: the definition costs something else than others say of it "
        "(graphopt reproduce table2).",
        style="dim",
    )


@zoo_app.command("build", cls=Command)
@takes_options
def build_network(
    *,
    name: Annotated[str, typer.Argument(help="See `graphopt zoo list`.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The network.", metavar="OUT.onnx")
    ],
    options: BuildOptions,
    json: shared.Json = None,
) -> None:
    """Write a network as ONNX, BatchNormalization and all, with random weights to train from."""
    from graphopt.analysis.cost import cost_of
    from graphopt.display.numbers import human
    from graphopt.display.tables import say
    from graphopt.ir.input_shapes import parse_input_shapes
    from graphopt.ir.onnx_io import save_model
    from graphopt.zoo.catalogue import build, trained

    shapes = parse_input_shapes([options.input_shape] if options.input_shape else [])
    if not shapes.keys() <= {"", "image"}:
        raise typer.BadParameter(f"--input-shape {options.input_shape}: the only input is image")
    given = {"stages": options.stages, "refinements": options.refinements}
    chosen = {option: value for option, value in given.items() if value is not None}
    graph = build(name, next(iter(shapes.values()), None), options=chosen)
    save_model(graph, output)
    cost = cost_of(graph)
    shape = list(graph.inputs[0].shape)
    figures = {"params": trained(cost), "macs": cost.macs, "input": shape}
    if not shared.put_json(json, {"output": str(output), "network": name, **figures}):
        size = "x".join(map(str, shape))
        say(
            f"{output}: {name}, {human(trained(cost))} params, {human(cost.macs)} MACs at {size}; "
            "weights are random"
        )
