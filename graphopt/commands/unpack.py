"""`graphopt unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def unpack(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="The file to write.")
    ],
) -> None:
    """Store packed weights as ordinary ones again."""
    from graphopt.sparsity.convert import unpack_file
    from graphopt.tables import say

    unpack_file(model, output)
    say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
