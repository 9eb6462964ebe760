"""The candidate that fulfils a wish, written: its network, and its bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graphopt.ir.onnx_io import load_model, save_model
from graphopt.runtime.bundle import read_bundle, write_bundle
from graphopt.search.candidates import Candidate
from graphopt.search.frontier import Point, Wish
from graphopt.search.options import LOCAL
from graphopt.search.report import Picked, SearchReport
from graphopt.search.workshop import Workshop

NAME = "picked"


def write(
    wish: Wish,
    candidate: Candidate,
    point: Point,
    report: SearchReport,
    workshop: Workshop,
    progress: Callable[[str], None],
) -> Picked:
    """Write a candidate as `picked.onnx` in the search's folder.

    What was measured here has a bundle beside it, `picked.graphopt`.

    Args:
        wish: what it fulfils.
        candidate: it.
        point: its figures.
        report: those of all.
        workshop: what made it.
        progress: told what is being done.
    """
    network, bundle = workshop.folder / f"{NAME}.onnx", workshop.folder / f"{NAME}.graphopt"
    progress(f"writing {network}")
    made = workshop.network(candidate, progress)
    assert isinstance(made, Path)
    save_model(load_model(made), network)
    commands = [workshop.command(candidate, str(network))]
    written = None
    if report.device == LOCAL:
        compiled = workshop.bundle(candidate, progress)
        assert isinstance(compiled, Path)
        kept = read_bundle(compiled)
        write_bundle(bundle, kept.manifest, {name: kept.read(name) for name in kept.manifest.files})
        written = str(bundle)
        commands.append(workshop.compile_command(candidate, str(network), written))
    return Picked(
        wish=f"{wish.what}={wish.value:g}",
        point=point,
        network=str(network),
        bundle=written,
        commands=tuple(commands),
        instead=report.instead_of(point),
    )
