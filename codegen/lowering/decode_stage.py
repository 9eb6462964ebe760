"""The decoder as kernels: maps in, people out (read by `graphopt.pose.kernel_decoder`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.kernels.pose import limbs, peaks, people
from graphopt.codegen.kernels.pose.limbs import LimbSpec
from graphopt.codegen.kernels.pose.peaks import THRESHOLDS, PeakSpec
from graphopt.codegen.linking.kernel_bundle import write_kernels
from graphopt.codegen.lowering.plan_extension import Kernels, Placed
from graphopt.codegen.targets import Target
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.kernel_decoder import thresholds
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.skeleton import Skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.runtime.plan import Decoder, Plan, Tensor

_THRESHOLDS = Tensor(shape=(THRESHOLDS,), dtype="float32", arena=None)
_PEOPLE, _MAXIMA = ("people", "worth", "found", "counts"), ("peaks", "counts")
"""The parameters that say who is there; the second where there is one person at most."""
_BETWEEN = ("peaks", "ends", "scores", "chosen")
"""Those that say how the first were found."""


def _kernels(
    spec: PoseSpec, maps: Mapping[str, tuple[int, ...]], options: DecodeOptions, target: Target
) -> Kernels:
    """The kernels for a network's maps.

    Args:
        spec: the skeleton, and where its maps are among the channels of the network's outputs.
        maps: the shape of each of those outputs, (channels, height, width).
        options: the limits that are compiled in.
        target: what to compile for.
    """
    skeleton = spec.skeleton
    channels, *size = maps[spec.heat.output]
    height, width = size
    single = spec.paf is None
    peak_spec = PeakSpec(
        parts=len(skeleton.parts),
        size=(height, width),
        max_peaks=1 if single else options.max_peaks,
        first=spec.heat.first,
        channels=channels,
    )
    weights: dict[str, NDArray[np.generic]] = {"weights": peaks.pack_weight(target)}
    if spec.paf is None:
        functions = {"find_maxima": peaks.build_maxima(peak_spec, target)}
        return Kernels(functions, weights)
    limb_spec = LimbSpec(
        limbs=tuple(
            (
                *skeleton.ends(limb),
                spec.paf.first + limb.paf[0],
                spec.paf.first + limb.paf[1],
                limb.bridge,
            )
            for limb in skeleton.limbs
            if limb.paf is not None
        ),
        parts=len(skeleton.parts),
        channels=maps[spec.paf.output][0],
        size=(height, width),
        max_peaks=options.max_peaks,
        samples=options.samples,
    )
    functions = {
        "find_peaks": peaks.build(peak_spec, target),
        "find_limbs": limbs.build(limb_spec, target),
        "find_people": people.build(limb_spec, options.max_people, target),
    }
    weights |= {"limbs": limbs.pack_limbs(limb_spec), "along": limbs.pack_samples(limb_spec)}
    return Kernels(functions, weights)


def can_decode(plan: Plan, spec: PoseSpec) -> bool:
    """Whether a network's maps are as kernels read them: float32, channels first, of one size."""
    slices = [maps for maps in (spec.heat, spec.paf) if maps is not None]
    if any(maps.layout != "nchw" for maps in slices):
        return False
    tensors = [plan.tensors[plan.outputs[maps.output]] for maps in slices]
    sizes = {tensor.shape[2:] for tensor in tensors}
    return all(t.dtype == "float32" and t.shape[0] == 1 for t in tensors) and len(sizes) == 1


def with_decoder(
    plan: Plan,
    weights: bytes,
    spec: PoseSpec,
    target: Target,
    options: DecodeOptions | None = None,
) -> tuple[Plan, bytes, Mapping[str, Any]]:
    """Let a decoder follow a network.

    Args:
        plan: the network's, before its kernels are compiled.
        weights: the content of weights.bin.
        spec: where the maps are among the network's outputs.
        target: what to compile for.
        options: `max_peaks`, `max_people` and `samples` are compiled in; thresholds are defaults.

    Returns:
        The plan and the weights with the decoder's, and its kernels.
    """
    options = options or DecodeOptions()
    slices = {"heat": spec.heat} | ({} if spec.paf is None else {"paf": spec.paf})
    outputs = {name: plan.tensors[plan.outputs[maps.output]] for name, maps in slices.items()}
    shapes = {maps.output: outputs[name].shape[1:] for name, maps in slices.items()}
    kernels = _kernels(spec, shapes, options, target)
    data, constants = kernels.packed(len(weights))
    known = {
        "thresholds": _THRESHOLDS,
        # The same memory, without the batch of one.
        **{n: replace(tensor, shape=tensor.shape[1:]) for n, tensor in outputs.items()},
        **constants,
    }
    placed = Placed(kernels, known, "decode", arena=len(plan.arenas), first=len(plan.tensors))
    people = _MAXIMA if spec.paf is None else _PEOPLE
    decoder = Decoder(
        thresholds=placed.index["thresholds"],
        defaults=thresholds(options).tolist(),
        outputs={name: placed.index[name] for name in people},
        max_peaks=options.max_peaks,
        max_people=options.max_people,
        samples=options.samples,
    )
    plan = replace(placed.added_to(plan), decoder=decoder)
    return plan, weights + data, kernels.functions


def write_decoder(
    skeleton: Skeleton,
    size: tuple[int, int],
    target: Target,
    path: Path,
    options: DecodeOptions | None = None,
) -> None:
    """Compile a decoder by itself and write it as a bundle.

    Its inputs are `thresholds`, `heat` (parts, height, width) and, for a skeleton with PAFs, `paf`
    (channels, height, width); its outputs are those of the kernels `peaks`, `limbs` and `people`.

    Args:
        skeleton: parts, limbs and PAF channels.
        size: height and width of the maps.
        target: what to compile for.
        path: the bundle's folder.
        options: see `with_decoder`.
    """
    counts = {"heat": len(skeleton.parts), "paf": skeleton.paf_channels}
    maps = {name: MapSlice(output=name, count=count) for name, count in counts.items() if count}
    spec = PoseSpec(
        preprocess=Preprocess(color="rgb", mean=(0, 0, 0), scale=(1, 1, 1)),
        skeleton=skeleton,
        heat=maps["heat"],
        paf=maps.get("paf"),
        stride=1,
    )
    shapes = {name: (count, *size) for name, count in counts.items() if count}
    kernels = _kernels(spec, shapes, options or DecodeOptions(), target)
    data, constants = kernels.packed()
    known = {
        "thresholds": _THRESHOLDS,
        **{n: Tensor(shape=shape, dtype="float32", arena=None) for n, shape in shapes.items()},
        **constants,
    }
    placed = Placed(kernels, known)
    outputs = _PEOPLE + _BETWEEN if "paf" in shapes else _MAXIMA
    plan = replace(
        placed.added_to(Plan()),
        inputs={name: placed.index[name] for name in ("thresholds", *shapes)},
        outputs={name: placed.index[name] for name in outputs},
    )
    write_kernels(kernels.functions, plan, data, target, path)
