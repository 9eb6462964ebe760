"""`graphopt bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from graphopt.commands import options
from graphopt.commands.progress import shown


class Result(Protocol):
    """What was measured; rich shows it as tables."""

    def model_dump(self, *, mode: str, exclude_none: bool) -> dict[str, Any]:
        """What its JSON form is made of."""
        ...


def bench(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE|IN.onnx",
            help="A bundle; an ONNX file is compiled for the CPU first; with --rpc, a library.",
        ),
    ] = None,
    vs: Annotated[
        str | None,
        typer.Option(
            help="Engines to compare with: onnxruntime,openvino,ncnn,mnn, or tinygrad (OpenCL).",
            metavar="A,B",
            show_default="onnxruntime",
        ),
    ] = None,
    original: Annotated[
        Path | None,
        typer.Option(
            help="The network before optimize, for the other engines; the one beside it if left "
            "out.",
            metavar="A.onnx",
        ),
    ] = None,
    per_layer: Annotated[
        bool,
        typer.Option("--per-layer", help="Measure graphopt's layers too, and the machine's peak."),
    ] = False,
    photo: Annotated[
        Path | None,
        typer.Option(help="Measure its way too: pre-processing, network, decoding, drawing."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of every engine; every core if left out."),
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
    post_processing: Annotated[
        bool,
        typer.Option(
            "--post-processing",
            help="Instead of a network: from maps to people, graphopt's way and others.",
        ),
    ] = False,
    rpc: Annotated[
        str | None,
        typer.Option(
            help="Measure what compile --format tvm wrote, on a device that runs TVM's RPC server.",
            metavar="HOST:PORT",
        ),
    ] = None,
    json: options.Json = None,
    device: options.Device = "local",
    runner: options.Runner = None,
) -> None:
    """Measure a compiled network beside other engines, in turns, and compare their outputs.

    With --device adb, a bundle is measured on a phone, by itself, layer by layer.
    """
    from graphopt.display.tables import console

    if post_processing == (model is not None):
        raise typer.BadParameter("give a network, or --post-processing, and not both")
    result: Result
    if model is None:
        from graphopt.bench.postprocessing import compare_post_processing

        options.goes_with(context, "post_processing", "num_runs", "json")
        with shown("compiling the decoder") as tell:
            result = compare_post_processing(rounds=num_runs, progress=tell)
    elif device != "local":
        from graphopt.devices.phone_benchmark import bench_on_phone

        options.not_on_a_phone(context, "vs", "original", "warmup_runs", "input_shape", "rpc")
        with shown("looking for a phone") as tell:
            result = bench_on_phone(
                model,
                device,
                runner=runner,
                photo=photo,
                threads=threads or 0,
                runs=num_runs,
                progress=tell,
            )
    elif rpc:
        from graphopt.devices.rpc_benchmark import bench_library

        options.goes_with(context, "rpc", "num_runs", "warmup_runs", "json")
        with shown("connecting") as tell:
            result = bench_library(
                model, rpc, rounds=num_runs, warmup_rounds=warmup_runs, progress=tell
            )
    else:
        from graphopt.bench.benchmark import bench as run
        from graphopt.ir.input_shapes import parse_input_shapes

        with shown("reading the network") as tell:
            result = run(
                model,
                vs=[name.strip() for name in (vs or "onnxruntime").split(",") if name.strip()],
                threads=threads,
                rounds=num_runs,
                warmup_rounds=warmup_runs,
                input_shapes=parse_input_shapes(input_shape or []),
                per_layer=per_layer,
                photo=photo,
                original=original,
                progress=tell,
            )
    from graphopt.bench.benchmark import BenchReport

    # Of engines here, what was not measured has no key; of others, its value is null.
    here = isinstance(result, BenchReport)
    if not options.put_json(json, result.model_dump(mode="json", exclude_none=here)):
        console().print(result)
