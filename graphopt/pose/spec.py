"""What a pose network expects of a photo and where its answers are: the `PoseSpec`.

`detect_pose_spec` reads it out of an ONNX file: from what the file or the user says, from the
graph, and, for the normalisation of a network that says nothing, from a guess that is named as one.
A compiled bundle keeps it as `pose.json`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from graphopt.engine import Shape
from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.fitting.natural import natural_photo
from graphopt.pose.skeleton import Skeleton, builtin_skeletons, first_complaint, load_skeleton

METADATA_KEY = "graphopt.pose"
"""The key of `metadata_props` in an ONNX file that holds its PoseSpec as JSON."""

Triple = tuple[float, float, float]
Color = Literal["bgr", "rgb"]
FloatArray = NDArray[np.float32]
ASPECT = 16 / 9
"""Width to height of the input where nobody says a size: what cameras give."""
_CHOICES = ("color", "mean", "scale", "pad_value")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocess(_Frozen):
    """From 8-bit pixels to the network's input: value = (pixel - mean) * scale, a channel each."""

    color: Color
    """The order of the input's channels; `mean` and `scale` are in this order."""
    mean: Triple
    scale: Triple
    pad_value: float = 128.0
    """What fills the border, as a pixel value 0..255 (before mean and scale)."""
    multiple: Annotated[int, Field(gt=0)] = 8
    """Height and width of the input are multiples of it."""
    height: Annotated[int, Field(gt=0)] = 368
    """Default height of the input in pixels, where the network takes any."""

    @property
    def usual_size(self) -> tuple[int, int]:
        """Height and width of an input that takes any, where nobody says a size.

        `height`, and 16/9 of it, in multiples of the network's downsampling.
        """
        height, width = (
            max(1, round(extent / self.multiple)) * self.multiple
            for extent in (self.height, self.height * ASPECT)
        )
        return height, width


class MapSlice(_Frozen):
    """Some channels of one output: output[:, first : first + count]."""

    output: str
    first: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(gt=0)]

    def of(self, outputs: Mapping[str, NDArray[np.generic]]) -> FloatArray:
        """These channels of the first batch item, as float32 [count, h, w].

        Raises:
            InputError: there is no such output, or it has fewer channels.
        """
        shape = outputs[self.output].shape if self.output in outputs else ()
        if len(shape) != 4 or shape[1] < self.first + self.count:
            raise InputError(
                f"the pose spec reads channels {self.first} to {self.first + self.count - 1} of "
                f"output {self.output!r}, and the network has no such maps",
                hint=f"outputs: {', '.join(f'{n} {list(v.shape)}' for n, v in outputs.items())}",
            )
        maps = outputs[self.output][0, self.first : self.first + self.count]
        return maps.astype(np.float32, copy=False)


class Finding(_Frozen):
    """How a part of a PoseSpec was found."""

    how: Literal["given", "metadata", "detected", "guessed"]
    why: str


HEAT_WORTH = 0.5
"""What an error of the heat maps counts, of 1 in all; the rest is the PAFs'. Both are relative to
their channels. With the PAFs of the dense network, a Lightweight OpenPose pruned to 1.8 times fewer
multiply-adds keeps no more AP than with its own, with the dense heat maps 0.438 of 0.462; but plans
made with 0.75 kept less (0.387 in place of 0.393): layers that both need share the loss."""


class PoseSpec(_Frozen):
    """Everything between a photo and a network, and between a network and people."""

    preprocess: Preprocess
    skeleton: Skeleton
    heat: MapSlice
    """The heat maps: channel i is part i; channels past the parts (background) are not read."""
    paf: MapSlice | None = None
    """The part affinity fields; None for a network of one person."""
    stride: Annotated[int, Field(gt=0)]
    """Input pixels to a heat map's pixel."""
    notes: dict[str, Finding] = {}
    """How each part was found: skeleton, color, mean, scale, pad_value."""

    @model_validator(mode="after")
    def _maps_fit(self) -> PoseSpec:
        wanted = {"heat maps": (self.heat, len(self.skeleton.parts))}
        if self.paf is not None:
            wanted["PAF channels"] = (self.paf, self.skeleton.paf_channels)
        for what, (maps, least) in wanted.items():
            if maps.count < least or not least:
                raise ValueError(
                    f"skeleton {self.skeleton.name} has {least} {what}, the network {maps.count}"
                )
        return self

    def with_choices(
        self,
        *,
        skeleton: str | Path | None = None,
        color: Color | None = None,
        mean: Triple | None = None,
        scale: Triple | None = None,
        pad_value: float | None = None,
    ) -> PoseSpec:
        """A copy with what a user says in place of what was found (None keeps it).

        Raises:
            InputError: no such skeleton, or one that the network's maps do not fit.
        """
        values = (color, mean, scale, pad_value)
        given: dict[str, Any] = {
            name: v for name, v in zip(_CHOICES, values, strict=True) if v is not None
        }
        fields = dict(self) | {"preprocess": self.preprocess.model_copy(update=given)}
        if skeleton is not None:
            fields["skeleton"] = load_skeleton(skeleton)
            given["skeleton"] = skeleton
        fields["notes"] = self.notes | dict.fromkeys(given, Finding(how="given", why="by flag"))
        try:
            return PoseSpec(**fields)
        except ValidationError as error:
            raise InputError(first_complaint(error)) from error

    def worth(self, channels: Mapping[str, int]) -> dict[str, FloatArray]:
        """What errors count: a weight for each channel of the outputs, 1 in all.

        Args:
            channels: how many each output has, by name. What is not read weighs nothing.
        """
        read = [(self.heat, len(self.skeleton.parts), HEAT_WORTH)]
        if self.paf is not None:
            read.append((self.paf, self.skeleton.paf_channels, 1 - HEAT_WORTH))
        worth = {name: np.zeros(count, np.float32) for name, count in channels.items()}
        for maps, count, share in read:
            worth[maps.output][maps.first : maps.first + count] = share / count
        total = sum(float(weights.sum()) for weights in worth.values())
        return {name: weights / np.float32(total) for name, weights in worth.items()}

    @property
    def guesses(self) -> list[str]:
        """What was only guessed, a line for each reason, with the flags that change it."""
        reasons: dict[str, list[str]] = {}
        for name, finding in self.notes.items():
            if finding.how == "guessed":
                reasons.setdefault(finding.why, []).append(name)
        lines = []
        for why, names in reasons.items():
            said = ", ".join(f"{name} {_brief(getattr(self.preprocess, name))}" for name in names)
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in names)
            lines.append(f"guessed: {said} ({why}; change it with {flags})")
        return lines


def _brief(value: str | float | Triple) -> str:
    if isinstance(value, tuple):
        return "/".join(dict.fromkeys(f"{number:.4g}" for number in value))
    return str(value)


def choices(
    skeleton: str | None = None,
    color: str | None = None,
    mean: str | None = None,
    scale: str | None = None,
    pad_value: float | None = None,
) -> dict[str, Any]:
    """What a user said on a command line, as arguments of `detect_pose_spec` and `with_choices`.

    Raises:
        InputError: a colour order or a number that is none.
    """
    if color not in (None, *get_args(Color)):
        raise UsageError(f"--color {color}: not bgr or rgb")
    return {
        "skeleton": skeleton,
        "color": color,
        "mean": _triple("--mean", mean),
        "scale": _triple("--scale", scale),
        "pad_value": pad_value,
    }


def _triple(flag: str, text: str | None) -> Triple | None:
    """`128`, `1/256` or `a,b,c` as three numbers."""
    if text is None:
        return None
    try:
        quotients = [item.split("/") for item in text.split(",")]
        values = [math.prod([float(q[0]), *(1 / float(d) for d in q[1:])]) for q in quotients]
        first, second, third = values * 3 if len(values) == 1 else values
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"{flag} {text}: neither a number nor three", hint=f"such as {flag} 1/256 or 1,2,3"
        ) from error
    return first, second, third


def detect_pose_spec(
    model: Any,
    *,
    skeleton: str | Path | None = None,
    color: Color | None = None,
    mean: Triple | None = None,
    scale: Triple | None = None,
    pad_value: float | None = None,
) -> PoseSpec:
    """Find out how to feed and to read a pose network.

    In this order: what the caller gives; the file's own metadata (`graphopt.pose`); the graph
    (its outputs' channel counts, an affine map or BatchNormalization on its input); and for the
    normalisation that nothing tells, the convention under which the first convolution's response
    to an image of natural statistics fits best what a trained network expects (noted as guessed).

    Args:
        model: an ONNX file's path, a ModelProto, or a gs.Graph; one input [N,3,H,W], H and W fixed
            or free.
        skeleton: a built-in skeleton's name or a TOML file.
        color, mean, scale, pad_value: see `Preprocess`.

    Raises:
        InputError: the file cannot be read, or its outputs fit no skeleton (names the flag).
        Unsupported: the input is no single [N,3,H,W] tensor.
    """
    proto = _as_proto(model)
    stored = next((p.value for p in proto.metadata_props if p.key == METADATA_KEY), None)
    if stored is not None:
        spec = _parse(stored, where=f"the file's metadata {METADATA_KEY!r}")
        lost = {m.output for m in (spec.heat, spec.paf) if m} - {o.name for o in proto.graph.output}
        if lost:
            raise InputError(
                f"the file's metadata {METADATA_KEY!r} tells of an output {min(lost)!r}, and the "
                f"network has {', '.join(o.name for o in proto.graph.output)}",
                hint="give the outputs their names again, or remove that metadata entry",
            )
        how = Finding(how="metadata", why=METADATA_KEY)
        return spec.model_copy(
            update={"notes": dict.fromkeys(("skeleton", *_CHOICES), how)}
        ).with_choices(skeleton=skeleton, color=color, mean=mean, scale=scale, pad_value=pad_value)
    probe = _probe(proto)
    chosen = load_skeleton(skeleton) if skeleton is not None else None
    body, heat, paf = _find_maps(probe.outputs, chosen)
    stride = round(probe.height / probe.outputs[heat.output][1])
    preprocess, notes = _normalisation(proto, probe, family="paf" if paf else "single")
    notes["skeleton"] = Finding(
        how="given" if chosen else "detected",
        why=f"{body.name}: {heat.count} heat maps, {paf.count if paf else 0} PAF channels",
    )
    return PoseSpec(
        preprocess=Preprocess(
            **preprocess, multiple=max(stride, _downsampling(proto)), height=probe.default
        ),
        skeleton=body,
        heat=heat,
        paf=paf,
        stride=stride,
        notes=notes,
    ).with_choices(color=color, mean=mean, scale=scale, pad_value=pad_value)


def usual_shapes(inputs: Iterable[Any], spec: PoseSpec | None) -> dict[str, Shape]:
    """A shape for every input of a graph: its own, dynamic extents at the usual size.

    See `Preprocess.usual_size`; an extent stays None where nothing tells.
    """
    usual: Shape = (1, 3, *(spec.preprocess.usual_size if spec else (None, None)))
    shapes: dict[str, Shape] = {}
    for tensor in inputs:
        declared = list(tensor.shape or [None] * 4)
        choice = usual if spec and len(declared) == 4 else (None,) * len(declared)
        shapes[tensor.name] = tuple(
            own if isinstance(own, int) else other
            for own, other in zip(declared, choice, strict=True)
        )
    return shapes


def read_pose_spec(path: Path) -> PoseSpec:
    """The PoseSpec that a bundle keeps as `pose.json`.

    Raises:
        InputError: the file cannot be read, or holds no pose spec.
    """
    try:
        return _parse(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read: {error}",
            hint="a bundle is made by: graphopt compile MODEL.onnx -o BUNDLE",
        ) from error


def _parse(text: str, *, where: str) -> PoseSpec:
    try:
        return PoseSpec.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{where} holds no pose spec: {first_complaint(error)}") from error


def _as_proto(model: Any) -> Any:
    import onnx

    from graphopt.model import load_model, to_proto

    if isinstance(model, onnx.ModelProto):
        return model
    return to_proto(load_model(Path(model)) if isinstance(model, str | Path) else model)


@dataclass(frozen=True)
class _Probe:
    """What a network showed when it was run once on an image of natural statistics."""

    input: str
    height: int
    default: int
    """The fixed input height, or what networks of any height are usually run at."""
    outputs: Mapping[str, tuple[int, int]]
    """Channels and height of each 4-D output, in the graph's order."""
    response: float
    """Median deviation of the first convolution's channels (after its BatchNormalization)."""


def _probe(proto: Any) -> _Probe:
    import onnx

    from graphopt.engine import OnnxRuntimeEngine

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
    if response not in {o.name for o in graph.output}:
        kind = inputs[0].type.tensor_type.elem_type
        tapped.graph.output.append(onnx.helper.make_tensor_value_info(response, kind, None))
    engine = OnnxRuntimeEngine(tapped.SerializeToString(), optimize=False)
    height, width = shape[2] or 256, shape[3] or 256
    dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type)
    image = natural_photo(height, width)[None].astype(dtype)
    values = engine.run({inputs[0].name: image})
    spread = values[response].astype(np.float64).std(axis=(0, 2, 3))
    return _Probe(
        input=inputs[0].name,
        height=height,
        default=shape[2] or 368,
        outputs={
            o.name: (values[o.name].shape[1], values[o.name].shape[2])
            for o in graph.output
            if values[o.name].ndim == 4
        },
        response=float(np.median(spread)),
    )


def _find_maps(
    outputs: Mapping[str, tuple[int, int]], chosen: Skeleton | None
) -> tuple[Skeleton, MapSlice, MapSlice | None]:
    """Heat maps and PAFs among the outputs, by their channel counts; of several stages the last."""
    latest = {channels: name for name, (channels, _) in outputs.items()}
    bodies = [chosen] if chosen else [load_skeleton(name) for name in builtin_skeletons()]
    for body in bodies:
        paf = body.paf_channels
        for heat in (len(body.parts) + 1, len(body.parts)):
            if paf and heat + paf in latest:
                output = latest[heat + paf]
                return (
                    body,
                    MapSlice(output=output, count=heat),
                    MapSlice(output=output, first=heat, count=paf),
                )
            if paf and heat in latest and paf in latest:
                return (
                    body,
                    MapSlice(output=latest[heat], count=heat),
                    MapSlice(output=latest[paf], count=paf),
                )
    for body in bodies:
        for heat in (len(body.parts), len(body.parts) + 1):
            if heat in latest:
                return body, MapSlice(output=latest[heat], count=heat), None
    shown = ", ".join(f"{name} ({channels} channels)" for name, (channels, _) in outputs.items())
    raise InputError(
        f"the outputs fit no skeleton that is known: {shown or 'none has four dimensions'}",
        hint="say which one it is with --skeleton, a built-in name "
        f"({', '.join(builtin_skeletons())}) or a TOML file",
    )


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
    if inside is not None:
        factor, offset = inside
        # A head such as 4.4 x - 2.1 centres 0..1, not 0..255; x / 255 - 0.5 centres 0..255.
        off_centre = {
            top: abs(float(factor.mean()) * top / 2 + float(offset.mean())) / top
            for top in (255, 1)
        }
        top = min(off_centre, key=lambda value: off_centre[value])
        zero = np.clip(-offset / factor * 255 / top, 0, 255)
        detected = Finding(how="detected", why=f"the graph itself normalises pixels of 0..{top}")
        found = {
            # Photos are on average redder than blue, so the larger mean belongs to red.
            "color": "rgb" if zero[0] > zero[2] else "bgr",
            "mean": (0.0,) * 3,
            "scale": (top / 255,) * 3,
            "pad_value": round(float(zero.mean()), 1),
        }
        notes = dict.fromkeys(found, detected)
        if zero[0] == zero[2]:
            notes["color"] = Finding(how="guessed", why="the order of most pose networks")
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


def _downsampling(proto: Any) -> int:
    """The largest factor by which any tensor is smaller than the input (Conv and pooling strides).

    Sizes that are no multiple of it make branches of different depth disagree by a pixel.
    """
    factor: dict[str, float] = {}
    for node in proto.graph.node:
        strides = next((a.ints for a in node.attribute if a.name == "strides"), (1,))
        step = {"ConvTranspose": 1 / max(strides)}.get(node.op_type, max(strides))
        arriving = max((factor.get(name, 1.0) for name in node.input), default=1.0)
        for name in node.output:
            factor[name] = arriving * step
    return round(max(factor.values(), default=1.0))
