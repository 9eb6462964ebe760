"""What a network gives at a small input: its outputs, and how it answers pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import Unsupported
from graphopt.ir.arrays import Array, channels_last
from graphopt.ir.operators import Kind, standard_operators
from graphopt.runtime.synthetic_images import natural_photo


def as_proto(model: Any) -> Any:
    """The ModelProto of a graph, of a file, or of itself.

    But for a ModelProto, operators on quantised tensors become float ones between QuantizeLinear
    and DequantizeLinear.
    """
    import onnx

    from graphopt.ir.network import Network
    from graphopt.ir.onnx_io import load_model, to_proto
    from graphopt.ir.qoperators import expand_all, has_qoperators

    if isinstance(model, onnx.ModelProto):
        return model
    graph = load_model(Path(model)) if isinstance(model, str | Path) else model
    if has_qoperators(graph):
        graph = Network.of(graph.copy())
        expand_all(graph)
    return to_proto(graph)


@dataclass(frozen=True)
class Probe:
    """What a network showed when it was run once on an image of natural statistics."""

    input: str
    dtype: np.dtype[Any]
    """The input's type."""
    size: tuple[int, int]
    """Rows and columns of that image."""
    default: int
    """The fixed input height, or what networks of any height are usually run at."""
    outputs: Mapping[str, tuple[int, ...]]
    """Each output's shape, in the graph's order."""
    downsampling: int
    """See `downsampling`."""
    response: float
    """Median deviation of the first convolution's channels (after its BatchNormalization)."""
    values: Mapping[str, Array] = field(default_factory=dict)
    """Each output's."""


def probe_network(proto: Any, *, any_layout: bool = False) -> Probe:
    """Run a network once, on a small image of natural statistics, to see what it gives.

    Args:
        proto: the ModelProto.
        any_layout: take inputs [N,H,W,3], and networks that do not begin with a Conv, too.
    """
    import onnx

    from graphopt.runtime.engine import OnnxRuntimeEngine, as_type

    graph = proto.graph
    weights = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    shape = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if inputs else []
    last = any_layout and channels_last([extent or None for extent in shape])
    if len(inputs) != 1 or len(shape) != 4 or (shape[1] not in (0, 3) and not last):
        raise Unsupported(
            f"a pose network has one input [N,3,H,W]; this one has "
            f"{', '.join(f'{i.name}' for i in inputs) or 'none'} {shape}",
            hint="export the network with channels first (tf2onnx: --inputs-as-nchw)",
        )
    first = next((n for n in graph.node if n.op_type == "Conv"), None)
    if first is None and not any_layout:
        raise Unsupported("a pose network begins with a Conv; this one has none")
    response = inputs[0].name if first is None else _normalised(graph, first.output[0])
    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    known = {o.name for o in graph.output} | {inputs[0].name} | weights
    resized = [
        name for n in graph.node if n.op_type in _RESIZES for name in (n.input[0], n.output[0])
    ]
    for name in dict.fromkeys([response, *resized]):
        if name not in known:
            tapped.graph.output.append(onnx.ValueInfoProto(name=name))
    engine = OnnxRuntimeEngine(tapped.SerializeToString(), optimize=False)
    rows, columns = shape[1:3] if last else shape[2:]
    height, width = rows or 256, columns or 256
    dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type)
    image = natural_photo(height, width)[None] - np.float32(zero_input(dtype))
    feeds = {inputs[0].name: as_type(np.moveaxis(image, 1, 3) if last else image, dtype)}
    values = feeds | engine.run(feeds)
    spread = values[response].astype(np.float64).std(axis=(0, 2, 3))
    shapes = {name: value.shape for name, value in values.items()}
    return Probe(
        input=inputs[0].name,
        dtype=dtype,
        size=(height, width),
        default=rows or 368,
        outputs={o.name: shapes[o.name] for o in graph.output},
        downsampling=downsampling(proto, shapes),
        response=float(np.median(spread)),
        values={o.name: values[o.name] for o in graph.output},
    )


def _normalised(graph: Any, tensor: str) -> str:
    """A convolution's output, after its BatchNormalization where it has one."""
    behind = (
        n.output[0]
        for n in graph.node
        if n.op_type == "BatchNormalization" and n.input[0] == tensor
    )
    return next(behind, tensor)


def zero_input(dtype: np.dtype[Any]) -> float:
    """What stands for a black pixel is so much below it: int8 holds pixels of -128..127."""
    return 128.0 if dtype == np.int8 else 0.0


_RESIZES = standard_operators(Kind.RESAMPLING)


def downsampling(proto: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The largest factor by which any tensor is smaller than the input (strides, resizing).

    Other sizes than its multiples make branches of different depth disagree by a pixel.

    Args:
        proto: the network.
        shapes: those of what goes in and out of its `_RESIZES`, at some size.
    """
    factor: dict[str, float] = {}
    for node in proto.graph.node:
        arriving = max((factor.get(name, 1.0) for name in node.input), default=1.0)
        if node.op_type in _RESIZES:
            before, after = (shapes.get(name, ()) for name in (node.input[0], node.output[0]))
            arriving = factor.get(node.input[0], 1.0)
            step = before[2] / after[2] if len(before) == len(after) == 4 else 1.0
        else:
            given = {a.name: a for a in node.attribute}
            strides = given["strides"].ints if "strides" in given else (1,)
            block = given["blocksize"].i if "blocksize" in given else 1
            up = node.op_type in ("ConvTranspose", "DepthToSpace")
            step = max(*strides, block)
            step = 1 / step if up else step
        for name in node.output:
            factor[name] = arriving * step
    return round(max(factor.values(), default=1.0))
