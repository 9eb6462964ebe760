"""`graphopt unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options


def unpack(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The file to write.")
    ],
    json: options.Json = None,
) -> None:
    """Store packed weights as ordinary ones again."""
    from graphopt.display.tables import say
    from graphopt.optimizer.pack_files import unpack_file

    unpack_file(model, output)
    size = output.stat().st_size
    if not options.put_json(json, {"output": str(output), "bytes": size}):
        say(f"{output}: {size / 1e6:.1f} MB")
