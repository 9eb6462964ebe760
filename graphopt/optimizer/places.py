"""Where the results of `graphopt optimize` go."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import InputError


def place_for(path: Path, output: Path | None, report: Path | None, *, force: bool) -> Path:
    """The file for a result, `NAME.opt.onnx` beside the input unless another is named.

    What could destroy the input is refused, before any time is spent.

    Args:
        path: the input.
        output: the file that was named.
        report: the file for the report.
        force: allow the output to replace the input.

    Raises:
        InputError: one of them is no place for it.
    """
    output = output or path.with_name(f"{path.stem}.opt.onnx")
    if output.resolve() == path.resolve() and not force:
        raise InputError(
            f"the output {output} is the input", hint="choose another with -o, or say --force"
        )
    if output.is_dir():
        raise InputError(f"the output {output} is a folder", hint="give a file name with -o")
    if report and report.resolve() in (path.resolve(), output.resolve()):
        raise InputError(f"the report {report} would replace the network", hint="name another file")
    return output
