"""Which kernel and tile is fastest for each convolution of a network: what to measure, as bundles.

For every convolution there is one bundle, whose launches are the candidates side by side; all read
the same input and, as if packed for them, the same random weights.
`graphopt.compiler.tuner` times them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import prod
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from graphopt.codegen.importing.importer import import_onnx
from graphopt.codegen.importing.quantisation import with_float_weights
from graphopt.codegen.jobs.records import Candidates, Tuned
from graphopt.codegen.kernels.conv import choice as kernel_choice
from graphopt.codegen.kernels.conv.choice import KernelChoice
from graphopt.codegen.kernels.conv.sparse_index import random_index
from graphopt.codegen.kernels.conv.template import ConvSpec, Tile
from graphopt.codegen.linking import machine_code
from graphopt.codegen.linking.kernel_bundle import write_kernels
from graphopt.codegen.lowering.lower_convolutions import use_our_kernels
from graphopt.codegen.lowering.memory_plan import pack_weights
from graphopt.codegen.targets import Target
from graphopt.runtime.plan import Launch, Plan, Tensor

TILES = 4
"""Candidates of each algorithm, by estimated time."""
WORK_GROUPS = (16, 32, 128, 256)
"""Tried beside the target's own, with each algorithm's first candidate."""


def as_choices(layers: Mapping[str, Tuned]) -> dict[str, KernelChoice]:
    """What a tuning file says, as choices."""
    return {
        key: KernelChoice(tuned.kernel, Tile(*tuned.tile), tuned.work_group)
        for key, tuned in layers.items()
    }


def make_bundles(
    model: onnx.ModelProto,
    target: Target,
    folder: Path,
    progress: Callable[..., None] = lambda *_: None,
) -> list[Candidates]:
    """Compile the candidates of every convolution of a network.

    Args:
        model: static shapes, batch 1; every node has a name.
        target: what to compile for.
        folder: where the bundles go.
        progress: told each phase, and what it is working on.

    Returns:
        A bundle for each different convolution; its first candidate is what is taken unmeasured.
    """
    with machine_code.tvm_target(target):
        progress("import")
        module, node_of = import_onnx(model)
        _, layers = use_our_kernels(with_float_weights(module), target, node_of)
    found = {layer.spec.key: layer for layer in layers}
    results = []
    for number, (key, layer) in enumerate(found.items()):
        progress("code", f"of convolution {number + 1} of {len(found)}, {layer.node}")
        choices = to_measure(layer.spec, target)
        path = folder / f"{number}"
        _make_bundle(layer.spec, choices, target, path)
        results.append(
            Candidates(
                key=key,
                layer=layer.node,
                count=sum(other.spec.key == key for other in layers),
                bundle=path,
                choices=tuple(
                    Tuned(kernel=c.kernel, tile=c.tile, work_group=c.work_group) for c in choices
                ),
            )
        )
    return results


def to_measure(spec: ConvSpec, target: Target) -> list[KernelChoice]:
    """The candidates worth measuring, the one that is taken unmeasured first."""
    first = kernel_choice.candidates(spec, target)[0]
    chosen = [first]
    possible = kernel_choice.candidates(spec, kernel_choice.wider(target))

    def algorithm(choice: KernelChoice) -> tuple[str, int]:
        return choice.kernel, choice.tile.square

    for _, group in groupby(sorted(possible, key=algorithm), key=algorithm):
        best = list(group)[:TILES]
        chosen += best
        if target.kind == "gpu":
            chosen += [replace(best[0], work_group=size) for size in WORK_GROUPS]
    return list(dict.fromkeys(chosen))


def _make_bundle(
    spec: ConvSpec, choices: Sequence[KernelChoice], target: Target, path: Path
) -> None:
    functions = {f"candidate_{i}": choice.build(spec, target) for i, choice in enumerate(choices)}
    rng = np.random.default_rng(0)
    shapes = [
        [tuple(map(int, parameter.shape)) for parameter in function.params]
        for function in functions.values()
    ]
    largest = max(prod(shape) for one in shapes for shape in one[1:-1])
    weights = rng.standard_normal(largest, np.float32) / np.sqrt(largest)
    constants: list[NDArray[np.generic]] = [weights]
    sparse = [choice.kernel == kernel_choice.SPARSE for choice in choices]
    if any(sparse):
        constants.append(random_index(spec, target))
    data, offsets = pack_weights(constants)
    x, y = shapes[0][0], shapes[0][-1]
    tensors = [
        Tensor(shape=x, dtype="float32", arena=None),
        Tensor(shape=y, dtype="float32", arena=0),
    ]
    launches = []
    for name, (_, *operands, _), indexed in zip(functions, shapes, sparse, strict=True):
        places = range(len(tensors), len(tensors) + len(operands))
        tensors += [
            Tensor(shape=shape, dtype="int32", arena=-1, offset=offsets[1])
            if indexed and number == 1
            else Tensor(shape=shape, dtype="float32", arena=-1)
            for number, shape in enumerate(operands)
        ]
        launches.append(
            Launch(kernel=name, arguments=(0, *places, 1), layer=name.rpartition("_")[2])
        )
    plan = Plan(
        arenas=(4 * prod(y),),
        tensors=tuple(tensors),
        launches=tuple(launches),
        inputs={"x": 0},
        outputs={"y": 1},
    )
    write_kernels(functions, plan, data, target, path)
