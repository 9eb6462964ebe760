"""What went wrong, where, and what to do about it: every error that a user may see.

Each class carries the exit code of the command line (see the table in README.md), so that a script
can tell a wrong file from a failed check without reading the text.
"""

from __future__ import annotations

from typing import ClassVar


class GraphoptError(Exception):
    """A sentence for the user.

    Args:
        message: what is wrong, with the file, tensor or shape it is about.
        node: the ONNX node that it happened at, where there is one.
        pass_name: the pass that was running, where there is one.
        hint: what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        node: str | None = None,
        pass_name: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.pass_name = pass_name
        self.hint = hint

    def __str__(self) -> str:
        where = ", ".join(
            part
            for part in (
                f"pass {self.pass_name}" if self.pass_name else "",
                f"node {self.node}" if self.node else "",
            )
            if part
        )
        text = f"{self.message} ({where})" if where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class InputError(GraphoptError):
    """A file that cannot be read or written, or that is not what it should be."""

    exit_code = 1


class UsageError(InputError):
    """An option's or argument's value that there is not, or that does not go with the others."""

    exit_code = 2


class CheckFailed(GraphoptError):
    """A verification said no: the result is not what was promised."""

    exit_code = 3


class Unsupported(GraphoptError):
    """An operator, opset, target or missing optional part that this installation cannot handle."""

    exit_code = 4
