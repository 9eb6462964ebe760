"""`truncate-refinement`: fewer refinement stages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass
from typing import Annotated, ClassVar, TypeAlias

import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.ir.convolution import CONV_OPS
from graphopt.ir.edit import can_rewire, emit, live_nodes, remove_nodes, rewire
from graphopt.ir.graph import is_graph_output, is_standard, label, positions, producer_of, reads_of
from graphopt.ir.identity import IdentityMap, IdentitySet
from graphopt.optimizer.pass_contract import Change, Numerics, Pass, Skip, option

Maps: TypeAlias = tuple[gs.Tensor, ...]
"""What one stage gives: heat maps and part affinity fields, or whatever the network refines."""


@dataclass(frozen=True)
class Cascade:
    """Stages that each refine the maps of the one before."""

    junctions: tuple[gs.Node, ...]
    """Where maps and features meet: the first node of every stage but the initial one."""
    stages: tuple[Maps, ...]
    """The maps of every stage, each stage's in the same order."""


@dataclass(frozen=True)
class TruncateRefinement(Pass[Cascade]):
    """Keep the first stages of a cascade of refinements.

    Rewrite:
        Each stage of such a network takes the features of the backbone together with the maps of
        the stage before, by one Concat, and gives the same maps, better. They are found as the
        Concats of the same features with maps that are computed from these features; the last
        stage's maps are what has the same channels, comes out of the same operator, and reaches the
        outputs without another convolution. Whatever read them reads the maps of stage `stages`
        instead; the network's outputs keep their names. stages=1 keeps the initial stage alone,
        stages=2 that and one refinement, and so on.

    Numerics:
        Approximate: every stage was trained to give the final maps, and is nearly as good as the
        one after it; how nearly is a matter of measurement.

    Why:
        Stages cost the same each and gain less and less (Wei et al., "Convolutional Pose Machines",
        CVPR 2016, figure 8; Osokin, "Real-time 2D Multi-Person Pose Estimation on CPU", 2018, keeps
        one refinement of OpenPose's five).

    When it skips:
        The cascade has no more stages than are to be kept, or its stages do not correspond map by
        map.

    Examples:
        truncate-refinement{stages=1}
            f = Conv(x, first) a = Conv(f, last) c = Concat<axis=1>(f, a) b = Conv(c, refine)
            y = Relu(b)  ->  Conv Conv Relu: 2 stages become 1
    """

    name: ClassVar[str] = "truncate-refinement"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE

    stages: Annotated[int, Field(ge=1)] = option(
        MISSING, "how many to keep; the initial stage, before any refinement, is the first"
    )

    def match(self, graph: gs.Graph) -> Iterator[Cascade | Skip]:
        for found in _cascades(graph):
            if isinstance(found, Cascade) and len(found.stages) <= self.stages:
                yield Skip(label(found.junctions[0]), f"there are {len(found.stages)} stages")
            else:
                yield found

    def rewrite(self, graph: gs.Graph, site: Cascade) -> Change | Skip:
        name = label(site.junctions[0])
        for index, kept in enumerate(site.stages[self.stages - 1]):
            new = kept
            for maps in site.stages[self.stages :]:
                new = _read_instead(graph, maps[index], new)
        live = live_nodes(graph)
        remove_nodes(graph, [node for node in graph.nodes if node not in live])
        return Change(name, f"{len(site.stages)} stages become {self.stages}")


def _read_instead(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> gs.Tensor:
    """Let everyone who reads `old` read `new`, or a copy of it, and return what holds its value."""
    if not can_rewire(graph, old, new):
        old.inputs.clear()
        return emit(graph, "Identity", new, out=old)
    rewire(graph, old, new)
    return old if is_graph_output(graph, old) else new


# --- finding ------------------------------------------------------------------------------------


class _Ancestry:
    """Which tensors are computed from which: a set of nodes, as the bits of a number, for each."""

    def __init__(self, graph: gs.Graph) -> None:
        self._bit = IdentityMap((node, 1 << index) for node, index in positions(graph).items())
        self._above: IdentityMap[gs.Node, int] = IdentityMap()
        for node in graph.nodes:
            above = self._bit[node]
            for tensor in reads_of(node):
                for maker in tensor.inputs:
                    above |= self._above.get(maker, 0)
            self._above[node] = above

    def depends(self, tensor: gs.Tensor, node: gs.Node) -> bool:
        """Whether a tensor is made by a node, or from what it makes."""
        maker = producer_of(tensor)
        return maker is not None and bool(self._above.get(maker, 0) & self._bit[node])


def _cascades(graph: gs.Graph) -> Iterator[Cascade | Skip]:
    ancestry = _Ancestry(graph)
    junctions: dict[tuple[int, ...], list[tuple[gs.Node, Maps]]] = defaultdict(list)
    numbers: IdentityMap[gs.Tensor, int] = IdentityMap()
    for node in graph.nodes:
        if is_standard(node, "Concat") and node.attrs.get("axis") in (1, -3):
            features, maps = _parts(node, ancestry)
            if features and maps:
                same = sorted(numbers.setdefault(t, len(numbers)) for t in features)
                junctions[tuple(same)].append((node, maps))
    for group in junctions.values():
        nodes, stages = zip(*group, strict=True)
        last = _last_maps(graph, ancestry, nodes[-1], stages[-1])
        corresponding = all(
            _alike(a, b) and all(ancestry.depends(t, node) for t in b)
            for node, a, b in zip(nodes, stages, [*stages[1:], last or ()], strict=True)
        )
        if last is not None and corresponding:
            yield Cascade(nodes, (*stages, last))
        elif len(group) > 1:
            yield Skip(
                label(nodes[0]),
                f"{len(group)} nodes take the same features with what is computed from them, but "
                "not as stages that give the same maps",
            )


def _parts(junction: gs.Node, ancestry: _Ancestry) -> tuple[Maps, Maps]:
    """A Concat's inputs that stand for themselves, and those that are computed from others."""
    makers = [(t, maker) for t in junction.inputs if (maker := producer_of(t)) is not None]
    derived = [
        any(other is not t and ancestry.depends(t, maker) for other, maker in makers)
        for t in junction.inputs
    ]
    features = tuple(t for t, d in zip(junction.inputs, derived, strict=True) if not d)
    return features, tuple(t for t, d in zip(junction.inputs, derived, strict=True) if d)


def _channels(tensor: gs.Tensor) -> int | None:
    shape = tensor.shape
    return shape[1] if shape is not None and len(shape) > 1 and isinstance(shape[1], int) else None


def _alike(some: Maps, others: Maps) -> bool:
    return [_channels(t) for t in some] == [_channels(t) for t in others]


def _last_maps(
    graph: gs.Graph, ancestry: _Ancestry, junction: gs.Node, before: Maps
) -> Maps | None:
    """The maps that the last stage makes, in the order of those of the stage before."""
    maps = tuple(_last_map(graph, ancestry, junction, t) for t in before)
    found = tuple(t for t in maps if t is not None)
    if len(found) < len(maps) or len(IdentitySet(found)) < len(found):
        return None
    return found if _closes(graph, junction, found) else None


def _last_map(
    graph: gs.Graph, ancestry: _Ancestry, junction: gs.Node, before: gs.Tensor
) -> gs.Tensor | None:
    maker = producer_of(before)
    candidates = [
        node.outputs[0]
        for node in graph.nodes
        if maker is not None
        and node.op == maker.op
        and len(node.outputs) == 1
        and node is not junction
        and ancestry.depends(node.outputs[0], junction)
        and _channels(node.outputs[0]) == _channels(before) is not None
    ]
    # A stage may have several such tensors on the way: its map is the one that none follows.
    ends = [
        t
        for t in candidates
        if not any(ancestry.depends(other, t.inputs[0]) for other in candidates if other is not t)
    ]
    return ends[0] if len(ends) == 1 else None


def _closes(graph: gs.Graph, junction: gs.Node, maps: Sequence[gs.Tensor]) -> bool:
    """Whether all that the junction leads to passes through `maps`, and no convolution follows."""
    ends = IdentitySet(maps)
    inner, after = [junction.outputs[0]], list(maps)
    seen: IdentitySet[gs.Tensor] = IdentitySet()
    while inner:
        tensor = inner.pop()
        if tensor in seen or tensor in ends:
            continue
        seen.add(tensor)
        if is_graph_output(graph, tensor):
            return False
        inner += [t for reader in tensor.outputs for t in reader.outputs]
    while after:
        for reader in after.pop().outputs:
            if is_standard(reader, *CONV_OPS):
                return False
            after += reader.outputs
    return True
