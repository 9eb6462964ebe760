"""How a pose network wants its photos and where its answers are, read off the network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graphopt.errors import InputError, Unsupported
from graphopt.ir.arrays import Shape, channels_last
from graphopt.pose.map_slices import AXES, Output
from graphopt.pose.maps import find_maps, maps_among
from graphopt.pose.normalisation import find_normalisation
from graphopt.pose.output_graph import Graph
from graphopt.pose.probe import Probe, as_proto, probe_network
from graphopt.pose.skeleton import first_complaint, load_skeleton
from graphopt.pose.spec import (
    CHOICES,
    METADATA_KEY,
    AnySpec,
    Color,
    Finding,
    PoseSpec,
    Triple,
    parse_pose_spec,
)

HEADS = ("part-affinity", "heat-maps")
"""Heads of networks that answer with maps alone."""


def detect_pose_spec(
    model: Any,
    *,
    skeleton: str | Path | None = None,
    color: Color | None = None,
    mean: Triple | None = None,
    scale: Triple | None = None,
    pad_value: float | None = None,
    maps: str | None = None,
    head: str | None = None,
) -> PoseSpec:
    """Find out how to feed and to read a pose network that answers with maps.

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
        head: one of `HEADS`, if any.

    Raises:
        InputError: the file cannot be read, or its outputs fit no skeleton or several, or some
            would stay unused (names the flag).
        Unsupported: the input is no single [N,3,H,W] tensor, or maps are larger than it.
    """
    if head not in (None, *HEADS):
        raise InputError(
            f"--head {head}: this needs heat maps", hint="run, eval and compile take every head"
        )
    proto = as_proto(model)
    stored = next((p.value for p in proto.metadata_props if p.key == METADATA_KEY), None)
    said: dict[str, Any] = {"color": color, "mean": mean, "scale": scale, "pad_value": pad_value}
    if stored is not None and maps is None:
        where = f"the file's metadata {METADATA_KEY!r}"
        spec = parse_pose_spec(stored, where=where)
        _check_outputs(spec, proto, where)
        how = Finding(how="metadata", why=METADATA_KEY)
        return replace(spec, notes=dict.fromkeys(("skeleton", "maps", *CHOICES), how)).with_choices(
            skeleton=skeleton, **said
        )
    probe = probe_network(proto)
    chosen = load_skeleton(skeleton) if skeleton is not None else None
    graph = Graph(proto)
    outputs = maps_among(probe.outputs, probe.size, graph)
    reading = find_maps(outputs, graph, chosen, maps)
    stride = _stride(probe, next(output for output in outputs if reading.uses(output)))
    preprocess, notes = find_normalisation(proto, probe, family="paf" if reading.paf else "single")
    notes |= {
        name: Finding(
            how="given" if value is not None else "detected",
            why=f"{reading.heat.count} heat maps, {reading.paf.count if reading.paf else 0} PAFs",
        )
        for name, value in (("skeleton", chosen), ("maps", maps), ("decoder", maps))
    }
    notes |= {name: Finding(how="guessed", why=why) for name, why in reading.guessed.items()}
    try:
        multiple = max(stride, probe.downsampling)
        return PoseSpec.from_plain(
            {
                "preprocess": {**preprocess, "multiple": multiple, "height": probe.default},
                "skeleton": reading.skeleton,
                "heat": reading.heat,
                "paf": reading.paf,
                "stride": stride,
                "notes": notes,
            }
        ).with_choices(**said)
    except ValidationError as error:
        raise InputError(first_complaint(error)) from error


def _stride(probe: Probe, maps: Output) -> int:
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


def usual_shapes(inputs: Iterable[Any], spec: AnySpec | None) -> dict[str, Shape]:
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
