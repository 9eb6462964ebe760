"""What a pass is: the contract that built-in passes, plug-ins and `--load` files all meet."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    TypeAlias,
    TypeVar,
    final,
)

import onnx_graphsurgeon as gs

from graphopt.ir.changes import Change as Change
from graphopt.ir.changes import Skip as Skip
from graphopt.ir.edit import flaw_of, sort_nodes
from graphopt.ir.shape_inference import refresh_shapes
from graphopt.optimizer.pass_faults import Watch

if TYPE_CHECKING:
    from pathlib import Path

    from graphopt.analysis.latency.device import Device
    from graphopt.fitting.calibration import Calibration

Site = TypeVar("Site")
Facts = TypeVar("Facts")

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
class BasePass(ABC, Generic[Site, Facts]):
    """What both kinds of passes share: derive from `Pass`, or from `PreparedPass`."""

    name: ClassVar[str]
    """As pipelines write it; a built-in pass lives in the file of that name."""
    repeat: ClassVar[bool] = False
    """Whether changes may open new sites: then the graph is swept until nothing changes."""
    repairs: ClassVar[bool] = False
    """Whether it makes up for what passes before it changed: a budget is judged after it only."""
    rules: ClassVar[Mapping[str, str]] = {}
    """Named parts that it consists of, if any, with a line for the manual page each."""

    @property
    @abstractmethod
    def numerics(self) -> Numerics:
        """What it promises: `numerics = Numerics.EXACT`, or a property where options decide."""

    @abstractmethod
    def match(self, *args: Any, **kwargs: Any) -> Iterator[Site | Skip]:
        """Yield the sites, and a `Skip` for each place that is left out for a reason worth saying.

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

    @abstractmethod
    def prepare(self, graph: gs.Graph, context: Context) -> Facts:
        """What the pass has to know beside the graph, found once, before the first `match`."""

    @abstractmethod
    def sites(self, graph: gs.Graph, facts: Facts) -> Iterator[Site | Skip]:
        """What `match` yields, once the pass is prepared."""

    def numerics_given(self, facts: Facts) -> Numerics:  # noqa: ARG002
        """What it promises once it is prepared, where that is known better than from options."""
        return self.numerics

    def run(self, graph: gs.Graph, context: Context | None = None) -> Outcome:
        """Find and rewrite every site of `graph`, in place."""
        return self.sweep(graph, self.prepare(graph, context or Context()))

    def sweep(self, graph: gs.Graph, facts: Facts, without: Collection[int] = ()) -> Outcome:
        """The work of `run`, once the pass is prepared.

        Args:
            graph: what to rewrite, in place: the one that the pass was prepared for, or a copy.
            facts: what `prepare` gave.
            without: changes to leave out, by their numbers in the outcome of a sweep with them all;
                only of passes that do not repeat.

        Raises:
            CheckFailed: the pass crashed, or broke the contract: what `match` yields or `rewrite`
                gives, or the graph that it leaves. Says where.
        """
        changes: list[Change] = []
        watch = Watch(self.name, type(self).__module__)
        was_whole = flaw_of(graph) is None
        for _ in range(SWEEPS):
            number = len(changes)
            results: list[Change | Skip] = []
            for found in watch.found(lambda: self.sites(graph, facts), self.match):
                if isinstance(found, Skip):
                    results.append(found)
                elif number in without:
                    number += 1
                else:
                    results.append(watch.rewritten(self.rewrite, graph, found))
                    number += isinstance(results[-1], Change)
            fresh = [result for result in results if isinstance(result, Change)]
            changes += fresh
            if fresh:
                if was_whole:
                    watch.check_form(graph, fresh, self.rewrite)
                sort_nodes(graph)
                refresh_shapes(graph)
            if not fresh or not self.repeat:
                skips = (result for result in results if isinstance(result, Skip))
                return Outcome(tuple(changes), tuple(dict.fromkeys(skips)))
        raise watch.fault(f"it still changes the graph after {SWEEPS} sweeps", self.rewrite)

    def __str__(self) -> str:
        """The pass as a pipeline writes it; options at their defaults are left out."""
        given = ", ".join(
            f"{f.name}={quoted(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"{self.name}{{{given}}}" if given else self.name


AnyPass: TypeAlias = BasePass[Any, Any]
"""A pass of either kind, whatever its sites are."""


@dataclass(frozen=True)
class Pass(BasePass[Site, None]):
    """A rewriting of graphs.

    A pass is a frozen dataclass: its fields are its options on the command line, and its docstring
    is its manual page, with the sections *Rewrite*, *Numerics*, *Why* and *When it skips*. It
    defines `name`, `numerics`, `match` and `rewrite`; finding sites and changing them are apart, so
    that a site that is left alone can say why.
    """

    @abstractmethod
    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        """Yield sites and skips of a graph, see `BasePass.match`."""

    @final
    def prepare(self, graph: gs.Graph, context: Context) -> None:
        """Nothing: a pass that needs more than the graph is a `PreparedPass`."""

    @final
    def sites(self, graph: gs.Graph, facts: None) -> Iterator[Site | Skip]:  # noqa: ARG002
        """What `match` yields."""
        return self.match(graph)


@dataclass(frozen=True)
class PreparedPass(BasePass[Site, Facts]):
    """A pass that needs more than the graph: photos, the original network, a device.

    It defines `prepare` beside what a `Pass` defines, and its `match` is given what `prepare`
    returned. What `rewrite` needs of that, `match` puts into the site.
    """

    @abstractmethod
    def prepare(self, graph: gs.Graph, context: Context) -> Facts:
        """What is measured or fitted before the first `match`: a value, which says all by names.

        Tensors and nodes are named, not held: a check that fails has copies of the graph swept with
        the same facts. It changes nothing in the graph.

        Raises:
            InputError: the context lacks what the pass cannot do without.
        """

    @abstractmethod
    def match(self, graph: gs.Graph, facts: Facts) -> Iterator[Site | Skip]:
        """Yield sites and skips of a graph, see `BasePass.match`."""

    @final
    def sites(self, graph: gs.Graph, facts: Facts) -> Iterator[Site | Skip]:
        """What `match` yields."""
        return self.match(graph, facts)


def quoted(value: object) -> str:
    """An option's value as pipelines write it: in quotation marks where it needs them."""
    text = option_text(value)
    return text if re.fullmatch(r"[^\s,\"{}]+", text) else f'"{text}"'


def option_text(value: object) -> str:
    """An option's value as a pipeline writes it, without quotes."""
    if isinstance(value, Enum):
        return str(value.value)
    return str(value).lower() if isinstance(value, bool) else str(value)
