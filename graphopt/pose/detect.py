"""How a pose network wants its photos and where its answers are, read off the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from graphopt.errors import InputError, Unsupported
from graphopt.ir.arrays import Shape, channels_last
from graphopt.pose.maps import (
    AXES,
    Graph,
    Output,
    find_maps,
    maps_among,
)
from graphopt.pose.maps import (
    MapSlice as MapSlice,
)
from graphopt.pose.skeleton import first_complaint, load_skeleton
from graphopt.pose.spec import (
    _CHOICES,
    METADATA_KEY,
    Color,
    Finding,
    PoseSpec,
    Preprocess,
    Triple,
    _parse,
)
from graphopt.runtime.synthetic_images import natural_photo


def detect_pose_spec(
    model: Any,
    *,
    skeleton: str | Path | None = None,
    color: Color | None = None,
    mean: Triple | None = None,
    scale: Triple | None = None,
    pad_value: float | None = None,
    maps: str | None = None,
) -> PoseSpec:
    """Find out how to feed and to read a pose network.

    In this order: what the caller gives; the file's own metadata (`graphopt.pose`); the graph (its
    outputs, see `graphopt.pose.maps`; an affine map or BatchNormalization on its input; an input of
    whole numbers); and for the normalisation that nothing tells, the convention under which the
    first convolution's response to an image of natural statistics fits best what a trained network
    expects (noted as guessed).

    Args:
        model: an ONNX file's path, a ModelProto, or a gs.Graph; one input [N,3,H,W], H and W fixed
            or free.
        skeleton: a built-in skeleton's name or a TOML file.
        color, mean, scale, pad_value: see `Preprocess`.
        maps: which outputs are heat maps and PAFs, as `graphopt.pose.maps` says.

    Raises:
        InputError: the file cannot be read, or its outputs fit no skeleton or several, or some
            would stay unused (names the flag).
        Unsupported: the input is no single [N,3,H,W] tensor, or maps are larger than it.
    """
    proto = _as_proto(model)
    stored = next((p.value for p in proto.metadata_props if p.key == METADATA_KEY), None)
    said: dict[str, Any] = {"color": color, "mean": mean, "scale": scale, "pad_value": pad_value}
    if stored is not None and maps is None:
        where = f"the file's metadata {METADATA_KEY!r}"
        spec = _parse(stored, where=where)
        _check_outputs(spec, proto, where)
        how = Finding(how="metadata", why=METADATA_KEY)
        return spec.model_copy(
            update={"notes": dict.fromkeys(("skeleton", "maps", *_CHOICES), how)}
        ).with_choices(skeleton=skeleton, **said)
    probe = _probe(proto)
    chosen = load_skeleton(skeleton) if skeleton is not None else None
    graph = Graph(proto)
    outputs = maps_among(probe.outputs, probe.size, graph)
    reading = find_maps(outputs, graph, chosen, maps)
    stride = _stride(probe, next(output for output in outputs if reading.uses(output)))
    preprocess, notes = _normalisation(proto, probe, family="paf" if reading.paf else "single")
    notes |= {
        name: Finding(
            how="given" if value is not None else "detected",
            why=f"{reading.heat.count} heat maps, {reading.paf.count if reading.paf else 0} PAFs",
        )
        for name, value in (("skeleton", chosen), ("maps", maps), ("decoder", maps))
    }
    notes |= {name: Finding(how="guessed", why=why) for name, why in reading.guessed.items()}
    try:
        return PoseSpec(
            preprocess=Preprocess(
                **preprocess, multiple=max(stride, probe.downsampling), height=probe.default
            ),
            skeleton=reading.skeleton,
            heat=reading.heat,
            paf=reading.paf,
            stride=stride,
            notes=notes,
        ).with_choices(**said)
    except ValidationError as error:
        raise InputError(first_complaint(error)) from error


def _stride(probe: _Probe, maps: Output) -> int:
    """Input pixels to a pixel of maps.

    Raises:
        Unsupported: it would be less than one.
    """
    stride = round(probe.size[0] / maps.size[0])
    if stride < 1:
        height, width = maps.size
        rows, columns = probe.size
        raise Unsupported(
            f"the maps {maps.name} of {height}x{width} are larger than the input of "
            f"{rows}x{columns}",
            hint="people are read from maps of the input's size or smaller ones: take the output "
            "from before the maps are upsampled",
        )
    return stride


def _check_outputs(spec: PoseSpec, proto: Any, where: str) -> None:
    """Refuse a stored spec that reads maps which the network does not have."""
    shapes = {
        o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in proto.graph.output
    }
    for maps in (spec.heat, spec.paf):
        if maps is None:
            continue
        shape = shapes.get(maps.output)
        channels = shape[AXES[maps.layout][0]] if shape and len(shape) == 4 else 0
        if shape is None or 0 < channels < maps.first + maps.count:
            raise InputError(
                f"{where} reads {maps}, and the network has no such maps",
                hint=f"its outputs are {', '.join(shapes)}; say with --maps which are its maps",
            )


def usual_shapes(inputs: Iterable[Any], spec: PoseSpec | None) -> dict[str, Shape]:
    """A shape for every input of a graph: its own, dynamic extents at the usual size.

    See `Preprocess.usual_size`; an extent stays None where nothing tells.
    """
    size: Shape = spec.preprocess.usual_size if spec else (None, None)
    shapes: dict[str, Shape] = {}
    for tensor in inputs:
        declared = list(tensor.shape or [None] * 4)
        usual = (1, *size, 3) if channels_last(declared) else (1, 3, *size)
        choice = usual if spec and len(declared) == 4 else (None,) * len(declared)
        shapes[tensor.name] = tuple(
            own if isinstance(own, int) else other
            for own, other in zip(declared, choice, strict=True)
        )
    return shapes


def _as_proto(model: Any) -> Any:
    import onnx

    from graphopt.ir.onnx_io import load_model, to_proto

    if isinstance(model, onnx.ModelProto):
        return model
    return to_proto(load_model(Path(model)) if isinstance(model, str | Path) else model)


@dataclass(frozen=True)
class _Probe:
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
    """See `_downsampling`."""
    response: float
    """Median deviation of the first convolution's channels (after its BatchNormalization)."""


def _probe(proto: Any) -> _Probe:
    import onnx

    from graphopt.runtime.engine import OnnxRuntimeEngine, as_type

    graph = proto.graph
    weights = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    shape = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if inputs else []
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (0, 3):
        raise Unsupported(
            f"a pose network has one input [N,3,H,W]; this one has "
            f"{', '.join(f'{i.name}' for i in inputs) or 'none'} {shape}",
            hint="export the network with channels first (tf2onnx: --inputs-as-nchw)",
        )
    first = next((n for n in graph.node if n.op_type == "Conv"), None)
    if first is None:
        raise Unsupported("a pose network begins with a Conv; this one has none")
    response = next(
        (
            n.output[0]
            for n in graph.node
            if n.op_type == "BatchNormalization" and n.input[0] == first.output[0]
        ),
        first.output[0],
    )
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
    height, width = shape[2] or 256, shape[3] or 256
    dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type)
    image = natural_photo(height, width)[None] - np.float32(_zero(dtype))
    feeds = {inputs[0].name: as_type(image, dtype)}
    values = feeds | engine.run(feeds)
    spread = values[response].astype(np.float64).std(axis=(0, 2, 3))
    shapes = {name: value.shape for name, value in values.items()}
    return _Probe(
        input=inputs[0].name,
        dtype=dtype,
        size=(height, width),
        default=shape[2] or 368,
        outputs={o.name: shapes[o.name] for o in graph.output},
        downsampling=_downsampling(proto, shapes),
        response=float(np.median(spread)),
    )


def _zero(dtype: np.dtype[Any]) -> float:
    """What stands for a black pixel is so much below it: int8 holds pixels of -128..127."""
    return 128.0 if dtype == np.int8 else 0.0


_CONVENTIONS: Mapping[str, dict[str, Any]] = {
    "pixels": {"color": "bgr", "mean": (0.0,) * 3, "scale": (1.0,) * 3, "pad_value": 0.0},
    "paf": {"color": "bgr", "mean": (128.0,) * 3, "scale": (1 / 256,) * 3, "pad_value": 128.0},
    "single": {
        "color": "rgb",
        "mean": (123.675, 116.28, 103.53),
        "scale": (1 / 58.395, 1 / 57.12, 1 / 57.375),
        "pad_value": 114.0,
    },
}
"""8-bit pixels as they are; OpenPose's and Lightweight OpenPose's; ImageNet's.

The border is what becomes zero inside: what a network's own convolutions pad with.
"""


_PIXEL_DEVIATION = 58.0
"""The deviation of photos' pixels (ImageNet's); normalised, it is about 1."""


def _normalisation(
    proto: Any, probe: _Probe, family: Literal["paf", "single"]
) -> tuple[dict[str, Any], dict[str, Finding]]:
    """Colour, mean, scale and pad value, read from the graph's head or guessed, and how."""
    inside = _affine_head(proto, probe.input)
    if probe.dtype.kind in "iu":
        # 8-bit pixels as they are; what the graph does with them only says what the border is.
        taken = Finding(how="detected", why=f"the input is {probe.dtype}")
        dark = _zero(probe.dtype)
        factor, offset = inside if inside is not None else (np.ones(3), np.full(3, dark))
        zero = np.clip(-offset / factor + dark, 0, 255)
        found = {
            "color": "rgb" if zero[0] > zero[2] else "bgr",
            "mean": (dark,) * 3,
            "scale": (1.0,) * 3,
            "pad_value": float(np.rint(zero.mean())),
        }
        if zero[0] == zero[2]:
            found["color"] = _CONVENTIONS[family]["color"]
        notes = dict.fromkeys(found, taken)
        notes["color"] = _color_note(zero)
        return found, notes
    if inside is not None:
        factor, offset = inside
        top, why_guessed = _top(factor, offset)
        zero = np.clip(-offset / factor * 255 / top, 0, 255)
        detected = Finding(
            how="guessed" if why_guessed else "detected",
            why=why_guessed or f"the graph itself normalises pixels of 0..{top}",
        )
        found = {
            # Photos are on average redder than blue, so the larger mean belongs to red.
            "color": "rgb" if zero[0] > zero[2] else "bgr",
            "mean": (0.0,) * 3,
            "scale": (top / 255,) * 3,
            "pad_value": round(float(zero.mean()), 1),
        }
        notes = dict.fromkeys(found, detected)
        notes["color"] = _color_note(zero)
        return found, notes
    # A trained first layer answers with a deviation of order one; which input gives that?
    normalised = probe.response / _PIXEL_DEVIATION
    fits = "pixels" if abs(np.log(probe.response)) < abs(np.log(normalised)) else family
    guessed = Finding(
        how="guessed",
        why=f"the first convolution answers 8-bit pixels with deviation {probe.response:.3g}, "
        f"normalised ones with {normalised:.2g}; about 1 is usual",
    )
    return dict(_CONVENTIONS[fits]), dict.fromkeys(_CONVENTIONS[fits], guessed)


def _color_note(zero: NDArray[np.float64]) -> Finding:
    if zero[0] == zero[2]:
        return Finding(how="guessed", why="the order of most pose networks")
    return Finding(how="detected", why="the graph itself subtracts most from red")


def _top(factor: NDArray[np.float64], offset: NDArray[np.float64]) -> tuple[int, str]:
    """The largest pixel value, 255 or 1, that an affine head is for; and why that is a guess.

    A head such as 4.4 x - 2.1 centres 0..1, and x / 255 - 0.5 centres 0..255. Of one that centres
    neither, only the extent of its results tells: x / 255 makes 1 of 255.
    """
    slope, shift = float(factor.mean()), float(offset.mean())
    off_centre = {top: abs(slope * top / 2 + shift) / abs(slope * top) for top in (255, 1)}
    centred = [top for top, error in off_centre.items() if error <= _OFF_CENTRE]
    usual = [top for top in off_centre if _SPANS[0] <= abs(slope) * top <= _SPANS[1]]
    best = min(off_centre, key=lambda top: (off_centre[top], -top))
    certain = centred or ([] if shift else usual)
    if len(certain) == 1:
        return certain[0], ""
    return best, (
        f"the graph computes {slope:.3g} x {'+' if shift >= 0 else '-'} {abs(shift):.3g}, "
        "which tells neither 0..255 nor 0..1"
    )


_OFF_CENTRE = 0.25
"""How far the middle of all pixels may be from zero after normalisation, as a part of their range:
a black-and-white mean of 64 to 191 of 255."""


_SPANS = (0.5, 8.0)
"""How far all pixels usually reach after normalisation by a factor alone: x / 255, 2 x …"""


def _affine_head(proto: Any, tensor: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(factor, offset), [3] each, of the affine map that the graph applies to its input, if any."""
    from onnx import numpy_helper

    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    factor, offset = np.ones(3), np.zeros(3)
    found = False
    while True:
        users = [n for n in proto.graph.node if tensor in n.input]
        if len(users) != 1:
            break
        node = users[0]
        others = [constants.get(name) for name in node.input if name != tensor]
        step = _AFFINE.get(node.op_type)
        if step is None or any(o is None or o.size not in (1, 3) for o in others):
            break
        a, b = step(
            node,
            [np.broadcast_to(o.reshape(-1), 3).astype(float) for o in others if o is not None],
            node.input[0] == tensor,
        )
        factor, offset = factor * a, offset * a + b
        found = found or bool(others)
        tensor = node.output[0]
    return (factor, offset) if found else None


def _batch_norm(node: Any, constants: Sequence[Any], _: bool) -> tuple[Any, Any]:
    gamma, beta, mean, variance = constants
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    return factor, beta - mean * factor


_AFFINE: Mapping[str, Callable[[Any, Sequence[Any], bool], tuple[Any, Any]]] = {
    "Mul": lambda _, c, __: (c[0], 0),
    "Add": lambda _, c, __: (1, c[0]),
    "Sub": lambda _, c, input_first: (1, -c[0]) if input_first else (-1, c[0]),
    "BatchNormalization": _batch_norm,
    "Cast": lambda *_: (1, 0),
    "Identity": lambda *_: (1, 0),
    "Div": lambda _, c, __: (1 / c[0], 0),
}
"""Operator -> the (factor, offset) it applies, from the node, its constants, and whether the tensor
is its first input."""


_RESIZES = ("Resize", "Upsample")


def _downsampling(proto: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The largest factor by which any tensor is smaller than the input (strides, resizing).

    Sizes that are no multiple of it make branches of different depth disagree by a pixel.

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
