"""Why a pass matched a node, or did not: the plain function behind `graphopt explain`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_graphsurgeon as gs
from rich.console import RenderableType

from graphopt.display.tables import Grid, Kind
from graphopt.errors import UsageError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.graph import label
from graphopt.ir.input_shapes import parse_input_shapes
from graphopt.ir.onnx_io import load_model
from graphopt.ir.records import Record
from graphopt.optimizer.options import ExplainOptions
from graphopt.optimizer.pass_contract import Change, Context, Skip
from graphopt.optimizer.registry import find_passes
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.pose.detect import detect_pose_spec


@dataclass(frozen=True)
class Explanation(Record):
    """What a pass has to say about the nodes of a network."""

    chosen: str
    """The pass, as pipelines write it."""
    node: str | None
    changes: tuple[Change, ...]
    skips: tuple[Skip, ...]
    remark: str
    """Said where there is neither change nor skip; else empty."""

    def __rich__(self) -> RenderableType:
        """A line for each place."""
        if self.remark:
            return self.remark
        columns = {"": Kind.WORDS, "node": Kind.NAME, "what and why": Kind.WORDS}
        table = Grid(columns, title=self.chosen)
        for change in self.changes:
            table.add("matches", change.node, change.summary)
        for skip in self.skips:
            table.add("left", skip.node, skip.reason, style="dim")
        return table


def explain(
    path: Path,
    chosen: str,
    options: ExplainOptions = ExplainOptions(),
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Explanation:
    """Run a pass on a network that is not written, and say what it did, what it left and why.

    Args:
        path: the network.
        chosen: one pass with its options.
        options: what runs before it, on which photos, and which node counts.
        progress: told what a pass that takes its time is doing.

    Raises:
        InputError: no such network, pass or node, more than one pass, or one that needs photos
            without any.
    """
    known = find_passes(options.load)
    passes = parse_pipeline(chosen, known)
    if len(passes) != 1:
        raise UsageError(f"{chosen!r} is not one pass", hint="what runs before it goes to --after")
    (judged,) = passes
    node = options.node
    graph = load_model(path, parse_input_shapes(options.input_shape))
    calibration = None
    if options.calib is not None:
        spec = detect_pose_spec(graph)
        count = options.calib_photos
        calibration = Calibration.from_photos(options.calib, graph, spec, count=count)
    context = Context(original=graph.copy(), calibration=calibration, progress=progress)
    for before in parse_pipeline(options.after, known):
        before.run(graph, context)
    names = {label(n): n for n in graph.nodes}
    wanted = None if node is None else _names_of(graph, node)
    outcome = judged.run(graph, context)
    changes = tuple(c for c in outcome.changes if wanted is None or c.node in wanted)
    skips = tuple(s for s in outcome.skips if wanted is None or s.node in wanted)
    remark = ""
    if not changes and not skips:
        remark = f"{judged} finds nothing in {path} that looks like what it rewrites"
        if node is not None:
            kind = names[node].op if node in names else "tensor"
            remark = (
                f"{judged} does not look at {node} ({kind}) by itself; it may be part of a place "
                "that is reported under another node's name: leave out --node to see all"
            )
    return Explanation(str(judged), node, changes, skips, remark)


def _names_of(graph: gs.Graph, node: str) -> set[str]:
    """What reports may call a node: its label and its outputs' names."""
    for candidate in graph.nodes:
        names = {label(candidate), *(t.name for t in candidate.outputs)}
        if node in names:
            return names
    labels = [label(candidate) for candidate in graph.nodes]
    close = difflib.get_close_matches(node, labels, n=3)
    raise UsageError(
        f"the network has no node {node!r}",
        hint=f"did you mean {' or '.join(close)}?" if close else "see `graphopt inspect`",
    )
