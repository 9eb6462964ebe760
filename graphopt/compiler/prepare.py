"""A network as the compiler takes it: clean, of fixed sizes, one picture at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from graphopt.codegen.importing.static_sizes import check_sizes
from graphopt.codegen.importing.supported import check_operators
from graphopt.compiler.batch import for_one_picture
from graphopt.errors import CheckFailed, GraphoptError, InputError
from graphopt.ir.arrays import channels_last
from graphopt.ir.input_shapes import fix_sizes
from graphopt.ir.network import Network
from graphopt.ir.onnx_io import load_model
from graphopt.optimizer.options import OnFail as PassOnFail
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.pose.detect import usual_shapes
from graphopt.pose.head_choice import detect_head
from graphopt.pose.spec import AnySpec


def prepare_network(
    path: Path,
    input_shapes: Mapping[str, Sequence[int]] | None,
    pose_choices: Mapping[str, Any],
    progress: Callable[[str], None],
    failures: list[str] | None = None,
) -> Prepared:
    """A network as the compiler takes it: clean, every input of a fixed size, a batch of one.

    Args:
        path: the ONNX file.
        input_shapes: sizes to fix inputs at, see `load_model`.
        pose_choices: what the user says about the network, see `detect_head`.
        progress: told what is being done.
        failures: takes what a check of the cleaned graph says against it; without it, that stops.

    Raises:
        GraphoptError: the network cannot be read, or its size cannot be known.
        Unsupported: an operator that cannot be compiled, or a batch that cannot be made one.
    """
    progress("reading the network")
    graph, remark = for_one_picture(load_model(path, input_shapes))
    check_operators(graph)
    check_sizes(graph)
    pose, unread = _pose_spec(graph if remark else path, dict(pose_choices))
    fix_sizes(graph, _sizes(graph, pose, path))
    progress("cleaning the graph")
    on_fail: PassOnFail = "stop" if failures is None else "warn"
    try:
        cleaned = run_pipeline(
            graph, parse_pipeline(PRESETS["exact"]), verify="end", on_fail=on_fail
        )
    except CheckFailed as failure:
        failure.hint = "please report the network; compile --on-fail warn goes on all the same"
        raise
    if failures is not None:
        failures += cleaned.kept_failures
    return Prepared(cleaned.graph, pose, (remark,) if remark else (), unread)


class Prepared(NamedTuple):
    """What `prepare_network` makes of a file.

    Args:
        graph: the network.
        pose: how photos and people fit it; None where no pose maps were recognised.
        remarks: what was done that users did not ask for, a sentence each.
        unread: why no pose maps were recognised, where that is so.
    """

    graph: Network
    pose: AnySpec | None
    remarks: tuple[str, ...]
    unread: str


def _pose_spec(model: Path | Network, choices: dict[str, Any]) -> tuple[AnySpec | None, str]:
    try:
        return detect_head(model, **choices), ""
    except GraphoptError as error:
        # Any network can be compiled and timed; but what the user says must not be ignored.
        if any(value is not None for value in choices.values()):
            raise
        return None, str(error)


def _sizes(graph: Network, pose: AnySpec | None, path: Path) -> dict[str, tuple[int, ...]]:
    """A static shape for every input."""
    sizes = {}
    for name, shape in usual_shapes(graph.inputs, pose).items():
        known = tuple(extent for extent in shape if extent is not None)
        if len(known) != len(shape):
            example = "1,368,656,3" if channels_last(shape) else "1,3,368,656"
            raise InputError(
                f"{path}: the input {name} has no fixed size {list(shape)}",
                hint=f"give one: --input-shape {name}:{example}",
            )
        sizes[name] = known
    return sizes
