"""What each layer of a bundle multiplies in, and why: `graphopt explain BUNDLE`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_graphsurgeon as gs
from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.analysis.latency.precision import is_quantised_layer
from graphopt.display.tables import Grid, Kind
from graphopt.errors import GraphoptError
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import label
from graphopt.ir.onnx_io import load_model
from graphopt.ir.records import Record
from graphopt.runtime.bundle import Bundle, read_bundle
from graphopt.runtime.plan import Launch
from graphopt.runtime.precision import bundle_precision


@dataclass(frozen=True)
class LayerPrecision(Record):
    """What a kernel that multiplies computes in."""

    layer: str
    kernel: str
    precision: str
    why: str


@dataclass(frozen=True)
class BundlePrecision(Record):
    """The same for a bundle: of its best level, where there are several."""

    bundle: str
    precision: str
    layers: tuple[LayerPrecision, ...]

    def __rich__(self) -> RenderableType:
        """A line for each layer, and how many there are of each precision."""
        columns = {"layer": Kind.NAME, "kernel": Kind.NAME, "multiplies in": Kind.WORDS}
        table = Grid(columns | {"why": Kind.WORDS}, title=self.bundle)
        for one in self.layers:
            table.add(one.layer, one.kernel, one.precision, one.why)
        found = [one.precision for one in self.layers]
        counts = ", ".join(f"{found.count(name)} in {name}" for name in dict.fromkeys(found))
        return Group(table, Text(f"compiled in {self.precision}; layers: {counts or 'none'}"))


def layer_precisions(path: Path) -> BundlePrecision:
    """What each layer of a bundle multiplies in.

    Raises:
        InputError: no bundle, or a damaged one.
    """
    bundle = read_bundle(path)
    nodes = _nodes(bundle)
    whole = bundle_precision(bundle)
    layers = []
    for launch in bundle.plan.launches:
        if launch.stage != "network" or not launch.macs:
            continue
        precision, why = _of_launch(bundle, launch)
        if why is _ASKED and precision == "float32" != whole:
            why = _why_float(nodes.get(launch.layer), whole)
        layers.append(LayerPrecision(launch.layer or launch.kernel, launch.kernel, precision, why))
    return BundlePrecision(str(path), whole, tuple(layers))


_ASKED = "as the bundle was compiled"
_BY_TYPES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("uint8", "int8"): ("int8", "in 8 bits in the network"),
    ("uint8", "float32"): ("float32", "depthwise: products of bytes are exact in float32"),
    ("uint16", "uint16"): ("bfloat16", _ASKED),
    ("uint16", "float32"): ("float32", "depthwise: products in float32, of bfloat16 numbers"),
}
"""What a kernel that reads an input and weights of some types multiplies in, and why."""
_STORED = {"int8": "uint8", "bfloat16": "uint16"}
"""The types of bytes and of bfloat16 numbers in plans, whichever way they are called."""


def _of_launch(bundle: Bundle, launch: Launch) -> tuple[str, str]:
    x, weight, *_ = (bundle.plan.tensors[index].dtype for index in launch.arguments)
    x = _STORED.get(x, x)
    weight = "uint16" if weight == "bfloat16" else weight
    if (x, weight) in _BY_TYPES:
        return _BY_TYPES[x, weight]
    return ("float16" if x == "float16" else "float32"), _ASKED


def _nodes(bundle: Bundle) -> dict[str, gs.Node]:
    """The network's nodes by name; none where its file is gone."""
    try:
        graph = load_model(bundle.source())
    except GraphoptError:
        return {}
    return {label(node): node for node in graph.nodes}


def _why_float(node: gs.Node | None, whole: str) -> str:
    """Why a layer is in float32 though the bundle is in less."""
    if node is None:
        return f"no kernel of {whole} suits it, or the network has it in floats"
    if "int8" in whole and not is_quantised_layer(node):
        return "the network has it in floats"
    if Convolution.as_stored(node) is None:
        return f"no convolution: there is no {node.op} in {whole}"
    return f"few positions, or no kernel of {whole} suits it"
