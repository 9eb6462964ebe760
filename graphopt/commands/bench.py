"""`graphopt bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from graphopt.bench.options import BenchOptions
from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown


class Result(Protocol):
    """What was measured; rich shows it as tables."""

    def to_plain(self, *, exclude_none: bool = False) -> Any:
        """Its JSON form as dictionaries and lists."""
        ...


@takes_options
def bench(
    *,
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE|IN.onnx",
            help="A bundle; an ONNX file is compiled for the CPU first; with --rpc, a library.",
        ),
    ] = None,
    options: BenchOptions,
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
    json: shared.Json = None,
    device: shared.Device = "local",
    runner: shared.Runner = None,
) -> None:
    """Measure a compiled network beside other engines, in turns, and compare their outputs.

    With --device adb, a bundle is measured on a phone, by itself, layer by layer.
    """
    from graphopt.bench.bench_report import BenchReport
    from graphopt.display.tables import console

    if post_processing == (model is not None):
        raise typer.BadParameter("give a network, or --post-processing, and not both")
    result: Result
    if model is None:
        shared.goes_with(context, "post_processing", "num_runs", "json")
        result = _post_processing(options)
    elif device != "local":
        mine = ("vs", "original", "contest", "quantized", "images", "warmup_runs", "input_shape")
        shared.not_on_a_phone(context, *mine, "rpc")
        result = _on_phone(model, device, runner, options)
    elif rpc:
        shared.goes_with(context, "rpc", "num_runs", "warmup_runs", "json")
        result = _by_rpc(model, rpc, options)
    else:
        result = _here(model, options)
    # Of engines here, what was not measured has no key; of others, its value is null.
    here = isinstance(result, BenchReport)
    if not shared.put_json(json, result.to_plain(exclude_none=here)):
        console().print(result)


def _post_processing(options: BenchOptions) -> Result:
    from graphopt.bench.postprocessing import compare_post_processing

    with shown("compiling the decoder") as tell:
        return compare_post_processing(rounds=options.num_runs, progress=tell)


def _on_phone(model: Path, device: str, runner: Path | None, options: BenchOptions) -> Result:
    from graphopt.devices.phone_benchmark import bench_on_phone

    with shown("looking for a phone") as tell:
        return bench_on_phone(
            model,
            device,
            runner=runner,
            photo=options.photo,
            threads=options.threads or 0,
            runs=options.num_runs,
            progress=tell,
        )


def _by_rpc(model: Path, server: str, options: BenchOptions) -> Result:
    from graphopt.devices.rpc_benchmark import bench_library

    with shown("connecting") as tell:
        return bench_library(
            model,
            server,
            rounds=options.num_runs,
            warmup_rounds=options.warmup_runs,
            progress=tell,
        )


def _here(model: Path, options: BenchOptions) -> Result:
    from graphopt.bench.benchmark import bench

    with shown("reading the network") as tell:
        return bench(model, options, progress=tell)
