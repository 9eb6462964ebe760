"""What `graphopt inspect` shows: a network layer by layer, or two side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import onnx_graphsurgeon as gs
from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.analysis.cost import Cost, LayerCost, cost_of
from graphopt.analysis.latency.device import Device, Precision
from graphopt.analysis.latency.predict import Bound, predict, total_ms
from graphopt.display.numbers import human, named_sizes
from graphopt.display.tables import Grid, Kind, distinct
from graphopt.errors import GraphoptError
from graphopt.ir.arrays import Dim
from graphopt.ir.graph import static_shape
from graphopt.ir.network import Network
from graphopt.ir.onnx_io import load_model
from graphopt.ir.records import Record
from graphopt.pose.detect import detect_pose_spec, usual_shapes
from graphopt.runtime.sample_inputs import example_shapes_if_any
from graphopt.runtime.steps import is_quantised


@dataclass(frozen=True, slots=True)
class PricedLayer(LayerCost):
    """One node's cost, with its predicted time on a device."""

    ms: float
    """Milliseconds; 0 where another layer's kernel does this one too."""
    bound: Bound | None
    """What most of them go into."""


@dataclass(frozen=True)
class Prediction(Record):
    """How long a network will take on a device."""

    device: str
    description: str
    unknown: tuple[str, ...]
    """What the device's profile does not know."""
    ms: float
    by_precision: Mapping[Precision, float] = field(default_factory=dict)
    """How much of it layers take that multiply, by what they multiply in."""


@dataclass(frozen=True)
class Inspection(Record):
    """A network's layers and totals."""

    model: str
    opset: int
    producer: str
    metadata: Mapping[str, str]
    inputs: Mapping[str, tuple[Dim, ...] | None]
    outputs: Mapping[str, tuple[Dim, ...] | None]
    sizes: Mapping[str, tuple[int, ...]]
    """The input sizes that shapes and MACs are given at."""
    totals: Cost
    ops: Mapping[str, int]
    layers: tuple[PricedLayer | LayerCost, ...]
    """Priced, all of them, where there is a prediction."""
    latency: Prediction | None = None

    def __rich__(self) -> RenderableType:
        """Layers, operator counts, totals."""
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        columns = {"layer": Kind.NAME, "operator": Kind.WORDS}
        numbers = ["output", "params", "MACs", *(["ms"] if self.latency else [])]
        columns |= dict.fromkeys(numbers, Kind.NUMBER)
        columns |= {"bound by": Kind.WORDS} if self.latency else {}
        table = Grid(columns, title=self.model)
        for layer in self.layers:
            table.add(
                layer.name,
                _operator(layer),
                _by(layer.output_shape),
                human(layer.params) if layer.params else "",
                "?" if layer.macs is None else human(layer.macs) if layer.macs else "",
                *(_price(layer) if self.latency else ()),
            )
        yield table
        yield Text("  ".join(f"{op} {count}" for op, count in self.ops.items()))
        ends = [
            f"{name} {_by(shape)}" for name, shape in (*self.inputs.items(), *self.outputs.items())
        ]
        yield Text(f"opset {self.opset}; inputs and outputs: {', '.join(ends)}")
        for key, value in self.metadata.items():
            yield Text(f"{key}: {value}", style="dim")
        at = named_sizes(self.sizes)
        params, macs, size = self.totals.cells()
        yield Text(
            f"nodes {self.totals.nodes}, params {params}, bytes {size}, "
            f"MACs {macs} at {at or 'no known input size'}",
            style="bold",
        )
        if self.latency:
            parts = (f"{ms:.1f} in {name}" for name, ms in self.latency.by_precision.items())
            told = f"predicted {self.latency.ms:.1f} ms on {self.latency.device}"
            yield Text(f"{told}; multiplying: {', '.join(parts)}", style="bold")
            yield from _profile_lines(self.latency)


@dataclass(frozen=True)
class Difference(Record):
    """A layer that two networks do not share: only in one, or with other attributes or cost.

    Its JSON form has the layers without times, priced or not.
    """

    name: str
    a: LayerCost | None
    b: LayerCost | None


@dataclass(frozen=True)
class Comparison(Record):
    """Two networks side by side; layers are paired by name, and several of a name in order."""

    a: Inspection
    b: Inspection
    difference: tuple[Difference, ...]
    """Layers that are not the same in both, in the order of the first, then of the second."""

    @classmethod
    def of(cls, a: Inspection, b: Inspection) -> Comparison:
        """Two networks, and which layers differ."""
        left, right = _named(a.layers), _named(b.layers)
        different = (
            Difference(name=key[0], a=left.get(key), b=right.get(key))
            for key in dict.fromkeys((*left, *right))
            if left.get(key) != right.get(key)
        )
        return cls(a, b, tuple(different))

    def __rich__(self) -> RenderableType:
        """Layers that differ, then operator counts and totals side by side."""
        layers = Grid({"layer": Kind.NAME, **_pair(self, Kind.WORDS)}, title="layers that differ")
        for entry in self.difference:
            layers.add(entry.name, _brief(entry.a), _brief(entry.b))
        sums = Grid({"": Kind.WORDS, **_pair(self, Kind.NUMBER)}, title="totals")
        for name in (one.name for one in fields(Cost) if one.name != "layers"):
            sums.add(name, *(human(getattr(one.totals, name)) for one in (self.a, self.b)))
        profile: list[Text] = []
        if self.a.latency and self.b.latency:
            before, after = self.a.latency.ms, self.b.latency.ms
            change = f"{after:.1f} ({after / before - 1:+.1%})" if before else f"{after:.1f}"
            sums.add(f"predicted ms, {self.a.latency.device}", f"{before:.1f}", change)
            profile += _profile_lines(self.a.latency)
        for op in dict.fromkeys((*self.a.ops, *self.b.ops)):
            counts = [str(one.ops.get(op, 0)) for one in (self.a, self.b)]
            sums.add(op, *counts, style="" if counts[0] == counts[1] else "bold")
        return Group(layers, sums, *profile)


def inspect_models(
    paths: Sequence[Path],
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    device: Device | None = None,
) -> list[Inspection]:
    """Load networks and describe them, all at the same input size where they take the same inputs.

    Args:
        paths: the ONNX files.
        input_shapes: the size to count at, see `load_model`. Dynamic inputs left out of it are
            counted at the size of a network that is fixed, else at the one that `compile` would
            take, or else at a modest one that runs.
        device: predict the layers' times on it.

    Raises:
        GraphoptError: see `load_model` and `predict`.
    """
    graphs = [load_model(path, input_shapes) for path in paths]
    fixed = [graph for graph in graphs if all(static_shape(t) for t in graph.inputs)]
    common = _shapes_of((fixed or graphs)[0])
    return [_inspection(p, g, common, device) for p, g in zip(paths, graphs, strict=True)]


def _inspection(
    path: Path, graph: Network, common: Mapping[str, tuple[int, ...]], device: Device | None
) -> Inspection:
    fits = all(
        tensor.name in common and static_shape(tensor) in (None, common[tensor.name])
        for tensor in graph.inputs
    )
    sizes = dict(common) if fits else _shapes_of(graph)
    cost = cost_of(graph, sizes)
    layers: Sequence[LayerCost] = cost.layers
    latency = None
    if device:
        times = predict(graph, device, sizes)
        layers = [
            PricedLayer(**asdict(layer), ms=time.ms, bound=time.bound)
            for layer, time in zip(layers, times, strict=True)
        ]
        unknown = [*device.unknown]
        if is_quantised(graph) and "int8" not in device.precisions:
            unknown.append("Int8: layers of this quantised network are taken to be as in float32.")
        latency = Prediction(
            device=device.name,
            description=device.description,
            unknown=tuple(unknown),
            ms=total_ms(times),
            by_precision={
                precision: total_ms(time for time in times if time.precision == precision)
                for precision in sorted({time.precision for time in times if time.precision})
            },
        )
    return Inspection(
        model=str(path),
        opset=graph.opset,
        producer=graph.header.producer,
        metadata=graph.header.metadata,
        inputs={t.name: None if t.shape is None else tuple(t.shape) for t in graph.inputs},
        outputs={t.name: None if t.shape is None else tuple(t.shape) for t in graph.outputs},
        sizes=sizes,
        totals=cost,
        ops=dict(Counter(layer.op for layer in cost.layers).most_common()),
        layers=tuple(layers),
        latency=latency,
    )


def _shapes_of(graph: gs.Graph) -> dict[str, tuple[int, ...]]:
    """The sizes that `compile` would take, else modest ones that run; nothing where none does."""
    if all(static_shape(tensor) for tensor in graph.inputs):
        return example_shapes_if_any(graph)
    try:
        usual = usual_shapes(graph.inputs, detect_pose_spec(graph))
    except GraphoptError:
        return example_shapes_if_any(graph)
    return {name: tuple(e for e in shape if e is not None) for name, shape in usual.items()}


def _named(layers: Iterable[LayerCost]) -> dict[tuple[str, int], LayerCost]:
    seen: Counter[str] = Counter()
    named = {}
    for layer in layers:
        named[layer.name, seen[layer.name]] = layer
        seen[layer.name] += 1
    return named


def _by(dims: Sequence[Dim] | None) -> str:
    return "?" if dims is None else "x".join("?" if dim is None else str(dim) for dim in dims)


def _profile_lines(latency: Prediction) -> Iterator[Text]:
    yield Text(f"{latency.device}: {latency.description}", style="dim")
    for gap in latency.unknown:
        yield Text(f"not known: {gap}", style="dim")


def _pair(shown: Comparison, kind: Kind) -> dict[str, Kind]:
    """Two columns headed by the files; one file may be compared with itself."""
    looks = distinct([shown.a.model, shown.b.model], 24)
    first, second = looks[shown.a.model], looks[shown.b.model]
    return {first: kind, second if second != first else f"{second} again": kind}


def _operator(layer: LayerCost) -> str:
    """An operator with what is not usual about it: Conv 3x3 stride 2 groups 512."""
    words = [layer.op]
    if layer.kernel:
        words.append(_by(layer.kernel))
    for word, extents in (("stride", layer.stride), ("dilation", layer.dilation)):
        if any(extent != 1 for extent in extents):
            words.append(f"{word} {extents[0] if len(set(extents)) == 1 else _by(extents)}")
    if layer.group not in (None, 1):
        words.append(f"groups {layer.group}")
    return " ".join(words)


def _brief(layer: LayerCost | None) -> str:
    if layer is None:
        return "–"
    cost = f" {human(layer.params)} params" if layer.params else ""
    ms = _price(layer)[0]
    time = f" {ms} ms" if ms else ""
    return f"{_operator(layer)} → {_by(layer.output_shape)}{cost}{time}"


def _price(layer: LayerCost) -> tuple[str, str]:
    """Milliseconds and bound, as the tables show them."""
    if not isinstance(layer, PricedLayer) or not layer.ms:
        return "", ""
    return f"{layer.ms:.3f}", layer.bound or ""
