"""What a pass is: the contract that built-in passes, plug-ins and `--load` files all meet."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    TypeVar,
)

import onnx_graphsurgeon as gs

from graphopt.errors import CheckFailed, GraphoptError
from graphopt.ir.changes import Change as Change
from graphopt.ir.changes import Skip as Skip
from graphopt.ir.edit import flaw_of, sort_nodes
from graphopt.ir.graph import label
from graphopt.ir.shape_inference import refresh_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from graphopt.analysis.latency.device import Device
    from graphopt.fitting.calibration import Calibration

Site = TypeVar("Site")

SWEEPS = 1000
"""A pass that still changes something after so many sweeps never ends."""


class Numerics(str, Enum):
    """What a pass promises about the network's outputs."""

    EXACT = "exact"
    """Nothing but rounding changes; verified."""
    APPROXIMATE = "approximate"
    """Outputs move a little; measured and reported."""
    RETRAIN = "retrain"
    """Outputs move so much that the network must be trained again."""


def loosest(numerics: Iterable[Numerics]) -> Numerics:
    """What several promises together are worth; exact where there are none."""
    order = list(Numerics)
    return max(numerics, key=order.index, default=Numerics.EXACT)


@dataclass(frozen=True)
class Outcome:
    """What a pass did to a graph."""

    changes: tuple[Change, ...]
    skips: tuple[Skip, ...]


@dataclass(frozen=True)
class Context:
    """What a pass may know beside the graph that it rewrites; all of it may be missing."""

    original: gs.Graph | None = None
    """The network before any pass. Passes keep tensor names, so that `original[name]` and the
    tensor of that name in the graph can be compared."""
    calibration: Calibration | None = None
    """Batches of what the network sees in use."""
    device: Device | None = None
    """What the network is to be fast on."""
    work: Path | None = None
    """A folder for the state of passes that take long, so that an interrupted run can go on."""
    progress: Callable[[str], None] = lambda _: None
    """Called with what the pass is busy with, in a few words; for passes that take long."""


def option(default: Any, help: str) -> Any:
    """A pass's option: a dataclass field with a default and a line for the manual page."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Pass(ABC, Generic[Site]):
    """A rewriting of graphs.

    A pass is a frozen dataclass: its fields are its options on the command line, and its docstring
    is its manual page, with the sections *Rewrite*, *Numerics*, *Why* and *When it skips*. It
    defines `name`, `numerics`, `match` and `rewrite`; finding sites and changing them are apart, so
    that a site that is left alone can say why.
    """

    name: ClassVar[str]
    """As pipelines write it; a built-in pass lives in the file of that name."""
    repeat: ClassVar[bool] = False
    """Whether changes may open new sites: then the graph is swept until nothing changes."""
    repairs: ClassVar[bool] = False
    """Whether it makes up for what passes before it changed: a budget is judged after it only."""

    @property
    @abstractmethod
    def numerics(self) -> Numerics:
        """What it promises: `numerics = Numerics.EXACT`, or a property where options decide."""

    @abstractmethod
    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        """Yield the sites, and a `Skip` for each place that is no site for a reason worth saying.

        It is consumed lazily: each site is rewritten before the search goes on, so walk over a copy
        of `graph.nodes`. A node that a rewrite has taken out has no outputs any more.
        """

    @abstractmethod
    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        """Rewrite one site; the order of `graph.nodes` and inner shapes are restored later."""

    @property
    def needs_images(self) -> bool:
        """Whether it cannot work without calibration images."""
        return False

    def bound_to_size(self, graph: gs.Graph) -> bool:  # noqa: ARG002
        """Whether it can do more where sizes are known, and ties the network to that size.

        Inputs of any size are then fixed at the usual one before, unless the user wants otherwise.
        """
        return False

    def prepare(self, graph: gs.Graph, context: Context) -> Pass[Any]:  # noqa: ARG002
        """The pass that does the work, for passes that need more than the graph: override it.

        Called once by `run`, before the first `match`. What a pass measures here (activations on
        the calibration's batches, times on the device) goes into fields of the pass that it
        returns, commonly of a subclass (named `_Something`: it is no pass of its own for lists);
        `match` and `rewrite` are then called on that one. By default a pass does its own work and
        ignores the context.

        Raises:
            InputError: the context lacks what the pass cannot do without.
        """
        return self

    def run(self, graph: gs.Graph, context: Context | None = None) -> Outcome:
        """Find and rewrite every site of `graph`, in place."""
        return self.prepare(graph, context or Context()).sweep(graph)

    def sweep(self, graph: gs.Graph, without: Collection[int] = ()) -> Outcome:
        """The work of `run`, once the pass is prepared.

        Args:
            graph: what to rewrite, in place.
            without: changes to leave out, by their numbers in the outcome of a sweep with them all;
                only of passes that do not repeat.

        Raises:
            CheckFailed: the pass crashed, or broke the contract: what `match` yields or `rewrite`
                gives, or the graph that it leaves. Says where.
        """
        changes: list[Change] = []
        was_whole = flaw_of(graph) is None
        for _ in range(SWEEPS):
            number = len(changes)
            results: list[Change | Skip] = []
            for found in self._found(graph):
                if isinstance(found, Skip):
                    results.append(found)
                elif number in without:
                    number += 1
                else:
                    results.append(self._rewritten(graph, found))
                    number += isinstance(results[-1], Change)
            fresh = [result for result in results if isinstance(result, Change)]
            changes += fresh
            if fresh:
                if was_whole:
                    self._check_form(graph, fresh)
                sort_nodes(graph)
                refresh_shapes(graph)
            if not fresh or not self.repeat:
                skips = (result for result in results if isinstance(result, Skip))
                return Outcome(tuple(changes), tuple(dict.fromkeys(skips)))
        raise self._fault(f"it still changes the graph after {SWEEPS} sweeps", self.rewrite)

    def _found(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        """What `match` yields, looked at."""
        try:
            found: Any = self.match(graph)
            if not isinstance(found, Iterable):
                raise self._fault(f"match gave {_kind(found)}: it must yield sites", self.match)
            for site in found:
                if site is None:
                    raise self._fault("match yielded None: it must yield sites", self.match)
                if isinstance(site, Skip):
                    self._check_said(site, site.reason, self.match)
                yield site
        except GraphoptError:
            raise
        except Exception as error:
            raise self._crash(error, "") from error

    def _rewritten(self, graph: gs.Graph, site: Site) -> Change | Skip:
        """What `rewrite` gives, looked at."""
        name = _name_of(site)
        try:
            result: Any = self.rewrite(graph, site)
        except GraphoptError:
            raise
        except Exception as error:
            raise self._crash(error, name) from error
        if not isinstance(result, (Change, Skip)):
            gave = f"rewrite gave {_kind(result)}: it must return a Change or a Skip"
            raise self._fault(gave, self.rewrite, name)
        said = result.summary if isinstance(result, Change) else result.reason
        self._check_said(result, said, self.rewrite, name)
        return result

    def _check_said(self, result: Change | Skip, said: Any, by: Any, node: str = "") -> None:
        if not (isinstance(result.node, str) and isinstance(said, str)):
            what = type(result).__name__
            raise self._fault(f"{by.__name__} gave a {what} of other things than texts", by, node)

    def _check_form(self, graph: gs.Graph, changes: Sequence[Change]) -> None:
        """Refuse a graph that is none any more."""
        flaw = flaw_of(graph)
        if flaw:
            places = ", ".join(change.node for change in changes[:3])
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise self._fault(
                f"it broke the graph: {flaw}; it rewrote {places}{more}", self.rewrite
            )

    def _fault(self, what: str, by: Any, node: str = "") -> CheckFailed:
        at = f"{line_of(by)}, node {node}" if node else line_of(by)
        return CheckFailed(f"{what} ({at})", pass_name=self.name)

    def _crash(self, error: Exception, node: str) -> CheckFailed:
        at = (
            f"{line_of_error(error, type(self))}, node {node}"
            if node
            else line_of_error(error, type(self))
        )
        return CheckFailed(
            f"it crashed: {type(error).__name__}: {error} ({at})", pass_name=self.name
        )

    def __str__(self) -> str:
        """The pass as a pipeline writes it; options at their defaults are left out."""
        given = ", ".join(
            f"{f.name}={quoted(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"{self.name}{{{given}}}" if given else self.name


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


def line_of_error(error: BaseException, pass_type: type[Pass[Any]]) -> str:
    """The file and line where an exception left a pass: in the pass's own file if it was there."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    own = getattr(sys.modules.get(pass_type.__module__), "__file__", None)
    file, line = next((f for f in reversed(frames) if f[0] == own), frames[-1])
    return f"{file}:{line}"


def quoted(value: object) -> str:
    """An option's value as pipelines write it: in quotation marks where it needs them."""
    text = option_text(value)
    return text if re.fullmatch(r"[^\s,\"{}]+", text) else f'"{text}"'


def option_text(value: object) -> str:
    """An option's value as a pipeline writes it, without quotes."""
    if isinstance(value, Enum):
        return str(value.value)
    return str(value).lower() if isinstance(value, bool) else str(value)
