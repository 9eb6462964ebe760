"""What flows through a network: its tensors over many images, without computing anything twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array
from graphopt.ir.edit import emit
from graphopt.ir.graph import positions, reads_of
from graphopt.ir.identity import IdentityMap
from graphopt.ir.onnx_io import serialised
from graphopt.runtime.engine import OnnxRuntimeEngine


class LayerwiseRunner:
    """A network that is run over many images up to one node after another.

    Between two nodes only those tensors are held that a later one needs, so that nothing is
    computed twice and memory does not grow with depth.
    """

    def __init__(
        self, graph: gs.Graph, stops: Sequence[gs.Node], feeds: Iterable[Mapping[str, Array]]
    ) -> None:
        self._graph = graph
        self._order = positions(graph)
        self._held = IdentityMap(zip(stops, live_tensors(graph, stops), strict=True))
        self._values: list[Mapping[str, Array]] = []
        self._feeds: Iterable[Mapping[str, Array]] = feeds
        self._position = 0

    @property
    def values(self) -> Sequence[Mapping[str, Array]]:
        """What is held where the walk has come to, for each image."""
        return self._values

    def advance_to(self, node: gs.Node) -> list[Array]:
        """Run everything before `node`, and return its first input for each image."""
        stop, needed = self._order[node], self._held[node]
        known = self._values or self._feeds
        fresh = {t.name for n in self._graph.nodes[self._position : stop] for t in n.outputs}
        outputs = sorted(needed & fresh)
        advanced: list[Mapping[str, Array]] = []
        engine = None
        for values in known:
            if outputs and engine is None:
                part = extract_subgraph(
                    self._graph,
                    nodes=slice(self._position, stop),
                    inputs=sorted(values),
                    outputs=outputs,
                )
                engine = make_session(part)
            made = engine.run({n: values[n] for n in engine.inputs}) if engine else {}
            advanced.append({n: v for n, v in values.items() if n in needed} | made)
        self._values, self._position = advanced, stop
        return [values[node.inputs[0].name] for values in advanced]


def live_tensors(graph: gs.Graph, stops: Sequence[gs.Node]) -> list[set[str]]:
    """For each stop, in order, the tensors that it or a node between it and the last stop reads."""
    order = positions(graph)
    places = [order[node] for node in stops]
    names = []
    for place in places:
        later = graph.nodes[place : places[-1] + 1]
        made = {t.name for node in later for t in node.outputs}
        reads = {t.name for n in later for t in reads_of(n) if isinstance(t, gs.Variable)}
        names.append(reads - made)
    return names


def extract_subgraph(
    graph: gs.Graph,
    *,
    outputs: Sequence[str],
    nodes: slice = slice(None),
    inputs: Sequence[str] | None = None,
) -> gs.Graph:
    """A copy of some nodes of a graph that makes the named tensors.

    Its inputs are those of the named ones that the nodes read; the graph's own by default.
    """
    chosen = graph.nodes[nodes]
    known = {t.name: t for n in chosen for t in (*reads_of(n), *n.outputs)}
    part = gs.Graph(
        chosen,
        graph.inputs if inputs is None else [known[name] for name in inputs if name in known],
        [known[name] for name in outputs],
        opset=graph.opset,
        import_domains=graph.import_domains,
        functions=graph.functions,
        ir_version=graph.ir_version,
    ).copy()  # only now: the whole graph takes longer to copy than most parts take to run
    for tensor in [*part.inputs, *part.outputs]:
        tensor.dtype = tensor.dtype or np.dtype(np.float32)
    return part


def make_session(graph: gs.Graph) -> OnnxRuntimeEngine:
    """A graph that is ready to run, with the weights that it has."""
    with serialised(graph) as model:
        return OnnxRuntimeEngine(model, keep_floats=True)


def shapes_of(graph: gs.Graph, feed: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a graph's nodes make, and of its inputs; none is kept."""
    names = [t.name for node in graph.nodes for t in node.outputs if t.name]
    part = extract_subgraph(graph, outputs=names)
    made = part.outputs
    part.outputs = [emit(part, "Shape", tensor, out=f"{tensor.name}.shape") for tensor in made]
    for shape in part.outputs:
        shape.dtype = np.dtype(np.int64)
    found = zip(names, make_session(part).run(feed).values(), strict=True)
    known = {name: values.shape for name, values in feed.items()}
    return known | {name: tuple(extents.tolist()) for name, extents in found}


def bytes_of(shape: Sequence[int]) -> int:
    """What a tensor of that shape takes in single precision."""
    return 4 * math.prod(shape)


def batch_by_bytes(
    names: Iterable[str], shapes: Mapping[str, Sequence[int]], memory: int
) -> Iterator[list[str]]:
    """Tensors in order, as many at a time as fit into so many bytes, one at least."""
    part: list[str] = []
    free = memory
    for name in names:
        free -= bytes_of(shapes[name])
        if part and free < 0:
            yield part
            part, free = [], memory - bytes_of(shapes[name])
        part.append(name)
    if part:
        yield part
