"""The candidate that fulfils a wish, written: its network, and its bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graphopt.ir.onnx_io import load_model, save_model
from graphopt.runtime.bundle import copy_bundle, read_bundle
from graphopt.search.candidates import Candidate
from graphopt.search.frontier import Point, Wish, levers
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
    output: Path | None = None,
    *,
    any_size: bool = True,
) -> Picked:
    """Write a candidate's network; what was measured here has its bundle beside it.

    Args:
        wish: what it fulfils.
        candidate: it.
        point: its figures.
        report: those of all.
        workshop: what made it.
        progress: told what is being done.
        output: the file; `picked.onnx` in the search's folder if left out.
        any_size: whether the network still takes photos of any size, where the original does.
            Otherwise it takes the candidate's, and whatever runs it has what was found.
    """
    network = output or workshop.folder / f"{NAME}.onnx"
    bundle = network.with_suffix(".graphopt")
    progress(f"writing {network}")
    made = workshop.network(candidate, progress)
    assert isinstance(made, Path)
    sizes = None if any_size else workshop.sizes(candidate)
    save_model(load_model(made, sizes), network)
    commands = [workshop.command(candidate, str(network))]
    written = None
    if report.device == LOCAL:
        compiled = workshop.bundle(candidate, progress)
        assert isinstance(compiled, Path)
        copy_bundle(read_bundle(compiled), bundle)
        written = str(bundle)
        commands.append(workshop.compile_command(candidate, str(network), written))
    return Picked(
        wish=str(wish),
        point=point,
        network=str(network),
        bundle=written,
        commands=tuple(commands),
        instead=report.instead_of(point),
        levers=levers(point, report.reference),
        smaller=report.smaller(point),
    )
