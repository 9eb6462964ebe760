"""`graphopt android`: bundles on phones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options
from graphopt.commands.progress import shown

android_app = typer.Typer(help="Bundles on Android phones.", no_args_is_help=True)


@android_app.callback()
def _group() -> None:
    """Bundles on Android phones."""


@android_app.command("build")
def build(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A compiled network.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="The folder to write; else BUNDLE's name.android."
        ),
    ] = None,
    json: options.Json = None,
) -> None:
    """Lay out what a phone (arm64-v8a) needs to run a bundle; needs the Android NDK and CMake.

    The folder holds the program graphopt-run for `adb shell`, libgraphopt.so and graphopt.h for an
    app, the bundle, and the licence notes that go with them.
    """
    from graphopt.devices import android
    from graphopt.display.tables import say

    folder = output or bundle.absolute().with_suffix(".android")
    with shown("reading the bundle") as tell:
        android.build(bundle, folder, progress=tell)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not options.put_json(json, {"output": str(folder), "bytes": size}):
        say(f"{folder}: {size / 1e6:.1f} MB")
