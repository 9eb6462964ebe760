"""`graphopt compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.analysis.options import CompareOptions
from graphopt.commands import options as shared
from graphopt.commands.parameters import After, takes_options
from graphopt.commands.progress import shown


@takes_options
def compare(
    *,
    before: Annotated[Path, typer.Argument(metavar="A", help="A bundle or an ONNX file.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="What it is compared with A.")],
    options: CompareOptions,
    json: Annotated[shared.Json, After("limit")] = None,
) -> None:
    """Compare the poses that two networks find in photos.

    Both see the same inputs, prepared as A wants them; distances are in pixels of the input.
    """
    from graphopt.analysis.compare import compare_files
    from graphopt.display.tables import say

    with shown("reading the networks") as tell:
        change = compare_files(
            before,
            after,
            options,
            progress=lambda done, total: tell(f"photos: {done} of {total}"),
        )
    if not shared.put_json(json, change.to_plain()):
        say(f"{change.images} photos: {change}")
        say(f"outputs differ by {change.error:.3f} of their deviation")
