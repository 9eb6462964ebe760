"""`graphopt pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown
from graphopt.optimizer.options import PackOptions


@takes_options
def pack(
    *,
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The file to write.")
    ],
    options: PackOptions,
    json: shared.Json = None,
) -> None:
    """Store pruned weights without their zeros, in ONNX that onnxruntime runs as before."""
    from graphopt.display.tables import say
    from graphopt.optimizer.pack_files import pack_file

    with shown("reading the network") as tell:
        pack_file(model, output, half=options.fp16, progress=tell)
    before, after = (path.stat().st_size for path in (model, output))
    if not shared.put_json(json, {"output": str(output), "bytes": after, "bytes_before": before}):
        say(f"{output}: {after / 1e6:.1f} MB, {after / before:.0%} of {model}")
