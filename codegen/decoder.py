"""The decoder as a bundle: maps in, peaks, limbs and people out; `graphopt.pose.fused` runs it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.bundle import ALIGNMENT, Launch, Plan, Tensor
from graphopt.codegen.kernel_bundle import write_kernels
from graphopt.codegen.kernels import limbs, peaks, people
from graphopt.codegen.kernels.limbs import LimbSpec
from graphopt.codegen.kernels.peaks import THRESHOLDS, PeakSpec
from graphopt.codegen.plan import pack_weights
from graphopt.codegen.targets import Target
from graphopt.pose.decode import DecodeOptions
from graphopt.pose.skeleton import Skeleton


def write_decoder(
    skeleton: Skeleton,
    size: tuple[int, int],
    target: Target,
    path: Path,
    options: DecodeOptions | None = None,
) -> None:
    """Compile a decoder and write it as a bundle.

    Its inputs are `thresholds`, `heat` (parts, height, width) and, for a skeleton with PAFs, `paf`
    (channels, height, width); its outputs are those of the kernels `peaks`, `limbs` and `people`.

    Args:
        skeleton: parts, limbs and PAF channels.
        size: height and width of the maps.
        target: what to compile for.
        path: the bundle's folder.
        options: `max_peaks` and `samples` are compiled in; thresholds are not.
    """
    options = options or DecodeOptions()
    parts, channels = len(skeleton.parts), skeleton.paf_channels
    most = options.max_peaks if skeleton.paf_limbs else 1
    peak_spec = PeakSpec(parts, size, most)
    weights: dict[str, NDArray[np.generic]] = {"weights": peaks.pack_weight(target)}
    inputs = {"thresholds": (THRESHOLDS,), "heat": (parts, *size)}
    functions = {"find_maxima": peaks.build_maxima(peak_spec, target)}
    outputs = ["peaks", "counts"]
    if skeleton.paf_limbs:
        limb_spec = LimbSpec(
            limbs=tuple(
                (*skeleton.ends(limb), *limb.paf, limb.bridge)
                for limb in skeleton.limbs
                if limb.paf is not None
            ),
            parts=parts,
            channels=channels,
            size=size,
            max_peaks=most,
            samples=options.samples,
        )
        functions = {
            "find_peaks": peaks.build(peak_spec, target),
            "find_limbs": limbs.build(limb_spec, target),
            "find_people": people.build(limb_spec, target),
        }
        weights |= {"limbs": limbs.pack_limbs(limb_spec), "along": limbs.pack_samples(limb_spec)}
        inputs["paf"] = (channels, *size)
        outputs += ["ends", "scores", "chosen", "owner", "totals"]
    data, offsets = pack_weights(list(weights.values()))
    offset_of = dict(zip(weights, offsets, strict=True))

    # A tensor is called as the kernels' parameters are that are it.
    tensors: dict[str, Tensor] = {}
    end = 0
    for function in functions.values():
        for name, shape, dtype in _parameters(function):
            if name in inputs:
                tensor = Tensor(shape=shape, dtype=dtype, arena=None)
            elif name in weights:
                tensor = Tensor(shape=shape, dtype=dtype, arena=-1, offset=offset_of[name])
            elif name not in tensors:
                tensor = Tensor(shape=shape, dtype=dtype, arena=0, offset=end)
                end += math.ceil(4 * math.prod(shape) / ALIGNMENT) * ALIGNMENT
            else:
                continue
            tensors[name] = tensor
    index = {name: i for i, name in enumerate(tensors)}
    plan = Plan(
        arenas=(end,),
        tensors=tuple(tensors.values()),
        launches=tuple(
            Launch(
                kernel=kernel,
                arguments=tuple(index[name] for name, *_ in _parameters(function)),
                layer=kernel,
            )
            for kernel, function in functions.items()
        ),
        inputs={name: index[name] for name in inputs},
        outputs={name: index[name] for name in outputs},
    )
    write_kernels(functions, plan, data, target, path)


def _parameters(function: Any) -> list[tuple[str, tuple[int, ...], str]]:
    """Names, shapes and types of a kernel's parameters."""
    return [(b.name, tuple(map(int, b.shape)), str(b.dtype)) for b in function.params]
