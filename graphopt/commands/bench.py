"""`graphopt bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands.progress import shown


def bench(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE|IN.onnx", help="A bundle; an ONNX file is compiled for the CPU first."
        ),
    ],
    vs: Annotated[
        str,
        typer.Option(
            help="Engines to compare with: onnxruntime,openvino,ncnn,mnn, or tinygrad (OpenCL).",
            metavar="A,B",
        ),
    ] = "onnxruntime",
    per_layer: Annotated[
        bool,
        typer.Option("--per-layer", help="Measure graphopt's layers too, and the machine's peak."),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of every engine; the physical cores if left out."),
    ] = None,
    num_runs: Annotated[int, typer.Option(min=1, help="Rounds; an engine runs once in each.")] = 20,
    warmup_runs: Annotated[int, typer.Option(min=0, help="Rounds before, not counted.")] = 3,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Input size for an ONNX file: NAME:1,3,368,656, or without NAME if it has one.",
            metavar="[NAME:]SHAPE",
        ),
    ] = None,
    result_json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON.", metavar="F.json")
    ] = None,
) -> None:
    """Measure a compiled network beside other engines, in turns, and compare their outputs."""
    from graphopt.benchmark import bench as run
    from graphopt.model import parse_input_shapes
    from graphopt.report import console

    with shown("reading the network") as tell:
        result = run(
            model,
            vs=[name.strip() for name in vs.split(",") if name.strip()],
            threads=threads,
            rounds=num_runs,
            warmup_rounds=warmup_runs,
            input_shapes=parse_input_shapes(input_shape or []),
            per_layer=per_layer,
            progress=tell,
        )
    console().print(result)
    if result_json:
        result.write(result_json)
