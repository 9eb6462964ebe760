"""Whether a rewritten network still is the network: well-formed, and equal within its numerics.

Networks are run by onnxruntime, node by node as they are written, on the images of
`runtime.sample_inputs`. The worst scale counts. A difference is the largest absolute one in a
tensor, relative to the range of that tensor's values in the reference (maximum minus minimum).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.errors import CheckFailed, GraphoptError, InputError
from graphopt.ir.arrays import Array, Feeds
from graphopt.ir.graph import reads_of
from graphopt.ir.onnx_io import serialised
from graphopt.ir.shape_inference import reason_of
from graphopt.optimizer.pass_contract import Numerics
from graphopt.runtime.differences import Agreement, agreement, difference, nudged
from graphopt.runtime.sample_inputs import WITHOUT_RUNNING, reference_engine, sample_feeds
from graphopt.runtime.steps import is_quantised, step_agreement, steps_of

EXACT_LIMITS = {"float16": 1e-2}
"""The largest difference that an exact pass may make to what is computed in half precision, or from
something that is."""
EXACT_LIMIT = 1e-4
"""The same for every other element type."""
APPROXIMATE_LIMIT = 1.0
"""The largest difference that an approximate pass may make: an output that moves by more than its
range is another one."""


@dataclass(frozen=True)
class Verdict:
    """What a check of a rewritten graph found."""

    difference: float | None
    """The outputs' difference from the original network's; None when the graph could not be run."""
    failure: str | None = None
    """Why the check failed, in a sentence; None when it passed."""
    remark: str = ""
    """What allowed a difference beyond the plain limit."""


class Verifier:
    """Holds a network's outputs, and compares what passes make of it with them.

    Args:
        original: the network before any pass.
        input_shapes: the sizes to run at.

    Raises:
        InputError: when the network fails at that size.
        Unsupported: when onnxruntime does not run it at all, or its inputs cannot be made up.
    """

    def __init__(self, original: gs.Graph, input_shapes: Mapping[str, Sequence[int]]) -> None:
        self._feeds = sample_feeds(original, input_shapes)
        try:
            self._original = self._run(original)
        except InputError as error:
            raise InputError(
                error.message, hint=f"try another size with --input-shape; {WITHOUT_RUNNING}"
            ) from error
        # Some exporters declare shapes that do not fit, which onnxruntime forgives: so do we then.
        self._shapes_fit = _objection(original, with_shapes=True) is None
        self._halves = _in_half_precision(original)
        self._outputs = {t.name: (t.dtype, tuple(t.shape or ())) for t in original.outputs}
        # What exact passes are held to: the network as the last inexact pass left it.
        self._baseline, self._baseline_values = original.copy(), self._original

    def check(self, graph: gs.Graph, numerics: Numerics) -> Verdict:
        """Judge a graph by what the pass that made it promises; whatever goes wrong is the verdict.

        An inexact pass that gets through is what later exact ones are compared with.
        """
        try:
            self._check_form(graph)
            values = self._run(graph)
        except GraphoptError as error:
            return Verdict(None, str(error.message))
        moved = self._difference(values, self._original)
        if numerics is not Numerics.EXACT:
            if not np.isfinite(moved):
                return Verdict(moved, f"outputs are not finite; {self._blame(graph)}")
            self._baseline, self._baseline_values = graph.copy(), values
            return Verdict(moved)
        found = self._agreement(graph, values)
        if found.excess is None:
            return Verdict(moved, remark=found.within)
        noise = f", and {found.excess}" if found.excess else ""
        return Verdict(
            moved,
            f"an exact pass moved outputs by {found.difference:.1e} of their range{noise}; "
            f"{self._blame(graph)}",
        )

    def _agreement(self, graph: gs.Graph, values: Sequence[Feeds]) -> Agreement:
        """How a graph compares with the last one that exact passes are held to."""
        baseline = self._baseline

        def rivals() -> Iterator[Sequence[Feeds]]:
            yield self._run(baseline, optimize=True)
            yield self._run(baseline, feeds=[nudged(feed) for feed in self._feeds])

        found = agreement(values, self._baseline_values, self._exact_limit, rivals)
        if found.excess is None or not is_quantised(baseline):
            return found
        # onnxruntime computes with whole numbers once it has optimised, whatever form it reads.
        whole = self._run(graph, optimize=True), self._run(baseline, optimize=True)
        pairs: list[tuple[Sequence[Feeds], Sequence[Feeds]]]
        pairs = [(values, self._baseline_values), whole]
        for ours, known in pairs:
            steps = step_agreement(ours, known, rivals, steps_of(baseline))
            if steps is not None and steps.excess is None:
                return steps
        return found

    def rebase(self, graph: gs.Graph) -> None:
        """Hold later exact passes to this graph: one that was checked before, and is back."""
        self._baseline, self._baseline_values = graph.copy(), self._run(graph)

    def _check_form(self, graph: gs.Graph) -> None:
        outputs = {t.name: (t.dtype, tuple(t.shape or ())) for t in graph.outputs}
        if outputs != self._outputs:
            raise CheckFailed(f"the outputs changed from {self._outputs} to {outputs}")
        objection = _objection(graph, with_shapes=self._shapes_fit)
        if objection:
            raise CheckFailed(f"the graph is no longer valid ONNX: {objection}")

    def _run(
        self, graph: gs.Graph, *, optimize: bool = False, feeds: Sequence[Feeds] | None = None
    ) -> list[dict[str, Array]]:
        with serialised(graph) as model:
            engine = reference_engine(model, optimize=optimize)
            return [engine.run(feed) for feed in feeds or self._feeds]

    @staticmethod
    def _pairs(
        values: list[dict[str, Array]], references: list[dict[str, Array]]
    ) -> Iterator[tuple[str, Array, Array]]:
        for value, reference in zip(values, references, strict=True):
            yield from ((name, value[name], reference[name]) for name in reference if name in value)

    def _difference(
        self, values: list[dict[str, Array]], references: list[dict[str, Array]]
    ) -> float:
        return max((difference(a, b) for _, a, b in self._pairs(values, references)), default=0.0)

    def _exact_limit(self, tensor: str) -> float:
        return EXACT_LIMITS["float16"] if tensor in self._halves else EXACT_LIMIT

    def _breaks(self, values: list[dict[str, Array]], references: list[dict[str, Array]]) -> bool:
        return any(
            difference(a, b) > self._exact_limit(name)
            for name, a, b in self._pairs(values, references)
        )

    def _blame(self, graph: gs.Graph) -> str:
        """Name the first tensor, in the graph's order, that departs from its namesake before."""
        ours, theirs = graph.tensors(), self._baseline.tensors()
        names = [
            name
            for name, tensor in ours.items()
            if isinstance(tensor, gs.Variable)
            and tensor.inputs
            and name in theirs
            and isinstance(theirs[name], gs.Variable)
        ]
        try:
            values = self._run(_exposing(graph, names))
            references = self._run(_exposing(self._baseline, names))
        except GraphoptError as error:
            return f"which tensor departs first could not be found: {error.message}"
        for name in names:
            ours_only = [{name: value[name]} for value in values]
            theirs_only = [{name: reference[name]} for reference in references]
            if self._breaks(ours_only, theirs_only):
                worst = self._difference(ours_only, theirs_only)
                return f"the first tensor that departs is {name} ({worst:.1e} of its range)"
        return "no inner tensor departs that much"


def _in_half_precision(graph: gs.Graph) -> set[str]:
    """The tensors that are computed in half precision, or from such."""
    found: set[str] = set()
    for node in graph.nodes:
        made = {t.name for t in node.outputs}
        if any(t.dtype == np.float16 or t.name in found for t in [*reads_of(node), *node.outputs]):
            found |= made
    return found


def _objection(graph: gs.Graph, *, with_shapes: bool) -> str | None:
    """What the ONNX checker has against a graph."""
    with serialised(graph) as model:
        try:
            onnx.checker.check_model(model, full_check=with_shapes)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            return reason_of(error)
    return None


def _exposing(graph: gs.Graph, names: Sequence[str]) -> gs.Graph:
    """A copy whose outputs are the named tensors."""
    copied = graph.copy()
    tensors = copied.tensors()
    copied.outputs = [tensors[name] for name in names]
    for tensor in copied.outputs:
        tensor.dtype = tensor.dtype or np.dtype(np.float32)
    return copied
