"""Files with compact weights and files without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graphopt.errors import InputError
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import parse_pipeline


def pack_file(
    path: Path,
    output: Path,
    *,
    half: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Write a network with its weights packed by the pass `pack-weights`, checked against it.

    Args:
        path: the network.
        output: the file to write.
        half: store values as float16.
        progress: told what is being done.

    Raises:
        GraphoptError: the network cannot be read or the output not be written.
    """
    _check(path, output)
    passes = parse_pipeline(f"pack-weights{{values={'float16' if half else 'float32'}}}")
    save_model(run_pipeline(load_model(path), passes, progress=progress).graph, output)


def unpack_file(path: Path, output: Path) -> None:
    """Write a network with its weights as plain initializers.

    Args:
        path: the network.
        output: the file to write.

    Raises:
        GraphoptError: the network cannot be read or the output not be written.
    """
    _check(path, output)
    save_model(load_model(path), output)


def _check(path: Path, output: Path) -> None:
    if output.resolve() == path.resolve():
        raise InputError(f"the output {output} is the input", hint="choose another with -o")
