"""`graphopt pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options
from graphopt.commands.progress import shown


def pack(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The file to write.")
    ],
    fp16: Annotated[bool, typer.Option("--fp16", help="Store weights in half precision.")] = False,
    json: options.Json = None,
) -> None:
    """Store pruned weights without their zeros, in ONNX that onnxruntime runs as before."""
    from graphopt.display.tables import say
    from graphopt.optimizer.pack_files import pack_file

    with shown("reading the network") as tell:
        pack_file(model, output, half=fp16, progress=tell)
    before, after = (path.stat().st_size for path in (model, output))
    if not options.put_json(json, {"output": str(output), "bytes": after, "bytes_before": before}):
        say(f"{output}: {after / 1e6:.1f} MB, {after / before:.0%} of {model}")
