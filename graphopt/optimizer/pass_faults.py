"""What a pass did wrong while it ran, as a sentence with file and line: checks of what it gives."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.ir.changes import Change, Skip
from graphopt.ir.edit import flaw_of
from graphopt.ir.graph import label


@dataclass(frozen=True)
class Watch:
    """A pass under observation: its methods' results are looked at before they are believed.

    Every method raises `CheckFailed` where the pass crashed or broke its contract.
    """

    name: str
    """The pass."""
    module: str
    """The module that it is defined in: a crash is put down to a line there."""

    def found(self, match: Callable[[], Any], by: Any) -> Iterator[Any]:
        """What `match` yields; `by` is the method, for its line."""
        try:
            found = match()
            if not isinstance(found, Iterable):
                raise self.fault(f"match gave {_kind(found)}: it must yield sites", by)
            for site in found:
                if site is None:
                    raise self.fault("match yielded None: it must yield sites", by)
                if isinstance(site, Skip):
                    self._check_said(site, site.reason, by)
                yield site
        except GraphoptError:
            raise
        except Exception as error:
            raise self._crash(error, "") from error

    def rewritten(self, rewrite: Callable[..., Any], graph: gs.Graph, site: Any) -> Change | Skip:
        """What `rewrite` gives for a site."""
        name = _name_of(site)
        try:
            result = rewrite(graph, site)
        except GraphoptError:
            raise
        except Exception as error:
            raise self._crash(error, name) from error
        if not isinstance(result, (Change, Skip)):
            gave = f"rewrite gave {_kind(result)}: it must return a Change or a Skip"
            raise self.fault(gave, rewrite, name)
        said = result.summary if isinstance(result, Change) else result.reason
        self._check_said(result, said, rewrite, name)
        return result

    def check_form(self, graph: gs.Graph, changes: Sequence[Change], by: Any) -> None:
        """Refuse a graph that is none any more."""
        flaw = flaw_of(graph)
        if flaw:
            places = ", ".join(change.node for change in changes[:3])
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise self.fault(f"it broke the graph: {flaw}; it rewrote {places}{more}", by)

    def fault(self, what: str, by: Any, node: str = "") -> CheckFailed:
        """The error that says what is wrong, with the line of a method."""
        return self._at(what, line_of(by), node)

    def _check_said(self, result: Change | Skip, said: Any, by: Any, node: str = "") -> None:
        if not (isinstance(result.node, str) and isinstance(said, str)):
            what = type(result).__name__
            raise self.fault(f"{by.__name__} gave a {what} of other things than texts", by, node)

    def _crash(self, error: Exception, node: str) -> CheckFailed:
        what = f"it crashed: {type(error).__name__}: {error}"
        return self._at(what, _line_of_error(error, self.module), node)

    def _at(self, what: str, line: str, node: str) -> CheckFailed:
        at = f"{line}, node {node}" if node else line
        return CheckFailed(f"{what} ({at})", pass_name=self.name)


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _name_of(site: object) -> str:
    """The node that a site is about, as far as can be told from outside."""
    parts = (
        [site] if isinstance(site, gs.Node) else vars(site).values() if is_dataclass(site) else site
    )
    for part in parts if isinstance(parts, Iterable) and not isinstance(parts, gs.Tensor) else ():
        if isinstance(part, gs.Node):
            return label(part)
    return ""


def line_of(code: Any) -> str:
    """The file and line of a function or class, as compilers write it."""
    try:
        _, line = inspect.getsourcelines(code)
        return f"{inspect.getsourcefile(code)}:{max(line, 1)}"
    except (OSError, TypeError):
        return f"{getattr(code, '__module__', None) or type(code).__module__}"


def _line_of_error(error: BaseException, module: str) -> str:
    """The file and line where an exception left a pass: in the pass's own file if it was there."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    own = getattr(sys.modules.get(module), "__file__", None)
    file, line = next((f for f in reversed(frames) if f[0] == own), frames[-1])
    return f"{file}:{line}"
