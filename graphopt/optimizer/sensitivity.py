"""What pruning one layer, or one function block, does to a network's maps and poses.

The paper's sensitivity analysis (section 2.2), without labels: the pruned network is compared with
the dense one on photos that nothing was fitted on. Those blocks of a layer go that it can best do
without, and what is left of it is fitted by least squares, as `reconstruct{masks=choose}` does, so
that what counts is the loss after the repair that any pruned network gets.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.analysis.cost import cost_of
from graphopt.analysis.latency.predict import judged_shapes
from graphopt.errors import Unsupported
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.chained_least_squares import unpacked
from graphopt.fitting.checkpoint import ARRAYS, LAYERS, Checkpoint, fingerprint, place, resumable
from graphopt.fitting.layerwise_runner import (
    LayerwiseRunner,
    extract_subgraph,
    make_session,
)
from graphopt.fitting.least_squares import LeastSquares
from graphopt.fitting.patch_sampling import Sample, salience
from graphopt.fitting.reconstruct import LEAST_POSITIONS
from graphopt.fitting.reconstruct_report import before_relu
from graphopt.ir.arrays import Array
from graphopt.ir.block_structure import BLOCKS, MEASURED, Block, BlockName, expand
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import is_standard, label
from graphopt.ir.input_shapes import parse_input_shapes
from graphopt.ir.onnx_io import load_model
from graphopt.optimizer.network_tail import FittedWeights, NetworkTail, with_weights
from graphopt.optimizer.options import RATIOS, SensitivityOptions
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.sensitivity_file import LayerLosses, LayerSensitivity, Loss, Sensitivity
from graphopt.optimizer.sensitivity_judge import MapJudge, held_out_images
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.pose.detect import detect_pose_spec
from graphopt.sparsity.eligible import NARROW, ineligible_reasons
from graphopt.sparsity.function_blocks import FunctionBlocks, function_blocks

Floats = NDArray[np.float32]

QUICK_POSITIONS_PER_UNKNOWN = 12
"""Output positions to fit on, as a multiple of the unknowns of one filter."""
RIDGE = 1e-2
"""Pull toward the present weights, relative to the mean square of a layer's input."""


def measure_file(
    path: Path,
    options: SensitivityOptions,
    *,
    work: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Sensitivity:
    """Measure an ONNX file's sensitivity on a folder of photos.

    Args:
        path: the network; BatchNormalizations are folded into its convolutions first, as
            `graphopt optimize` does before it prunes.
        options: the photos, and what is pruned.
        work: a folder for what an interrupted run goes on from; it goes when all is done.
        progress: told which layer of how many is being measured.

    Raises:
        GraphoptError: see `load_model`, `detect_pose_spec`, `Calibration.from_photos` and
            `sensitivity`.
    """
    pose = options.pose.choices()
    graph = load_model(path, parse_input_shapes(options.input_shape))
    spec = detect_pose_spec(graph, **pose)
    graph = run_pipeline(graph, parse_pipeline(PRESETS["exact"]), verify="off").graph
    calibration = Calibration.from_photos(options.calib, graph, spec, count=options.calib_photos)
    with resumable(work):
        found = sensitivity(
            graph,
            calibration,
            ratios=sorted(set(options.ratio)),
            block=options.block,
            work=work,
            progress=progress,
        )
    return replace(found, remarks=tuple(calibration.remarks))


def prunable(graph: gs.Graph, blocks: FunctionBlocks) -> list[gs.Node]:
    """The convolutions that are measured, in order.

    Those that pruning by blocks is for, without those that make maps, and those whose weights
    others share.
    """
    reasons = ineligible_reasons(graph)
    return [
        node
        for node in graph.nodes
        if is_standard(node, "Conv")
        and node not in reasons
        and (spec := Convolution.of(node)) is not None
        and spec.pads is not None
        and label(node) not in blocks.predictors
        and label(node) in blocks.of
        and len(node.inputs[1].outputs) == 1
    ]


def sensitivity(
    graph: gs.Graph,
    calibration: Calibration,
    *,
    ratios: Sequence[float] = RATIOS,
    block: BlockName = MEASURED["float32"],
    seed: int = 0,
    work: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Sensitivity:
    """Prune each layer, then each function block, alone, and measure what it does.

    Args:
        graph: the dense network.
        calibration: photos to fit on, and others to judge by.
        ratios: parts of a layer's blocks that go.
        block: filters x channels of a block.
        seed: of the positions in photos that are fitted on.
        work: a folder that keeps each layer as soon as it is measured; what an interrupted run left
            there is not measured again.
        progress: told which layer of how many is being measured.

    Raises:
        InputError: the network does not run on the photos.
        Unsupported: no layer can be pruned by blocks.
    """
    blocks = function_blocks(graph, calibration.spec)
    nodes = prunable(graph, blocks)
    if not nodes:
        raise Unsupported(
            f"no convolution has {NARROW} channels in and out, so that blocks of it could go"
        )
    costs = cost_of(graph, judged_shapes(graph)).layers
    macs = {layer.name: layer.macs or 0 for layer in costs}
    fitting, held_out = held_out_images(graph, nodes, calibration)
    judge = MapJudge(graph, calibration, held_out)
    feeds = calibration.feeds([*fitting, *held_out])
    walk = LayerwiseRunner(graph, [*nodes, graph.nodes[-1]], feeds)
    engine = make_session(extract_subgraph(graph, outputs=judge.outputs))
    where = [salience([*engine.run(feed).values()]) for feed in calibration.feeds(fitting)]
    kept = None
    if work is not None:
        kept = _MeasuredLayers(work, fingerprint([graph], calibration, [*ratios, block, seed]))
    layers: list[LayerSensitivity] = []
    pruned: dict[float, dict[str, FittedWeights]] = {ratio: {} for ratio in ratios}
    for number, node in enumerate(nodes, 1):
        progress(f"sensitivity: {number} of {len(nodes)} ({label(node)})")
        if kept and (known := kept.read(number)):
            layer, fits = known
            layers.append(layer)
            for ratio, weights in zip(ratios, fits, strict=True):
                pruned[ratio][layer.name] = weights
            continue
        spec = Convolution.of(node)
        assert spec is not None
        seen = walk.advance_to(node)
        system = _system(spec, seen[: len(fitting)], where, seed)
        tail = NetworkTail(graph, node, walk.values[len(fitting) :], judge.outputs)
        losses = []
        rectified = before_relu(graph, node.outputs[0])
        fits = list(_pruned(spec, system, BLOCKS[block], ratios, rectified=rectified))
        for ratio, weights in zip(ratios, fits, strict=True):
            pruned[ratio][label(node)] = weights
            losses.append(judge.loss(ratio, tail.run(weights)))
        name = label(node)
        layer = _layer(name, spec, macs[name], losses, str(blocks.of[name]))
        layers.append(layer)
        if kept:
            kept.write(number, layer, fits)
    return Sensitivity(
        block=block,
        images=len(held_out),
        people=judge.people,
        layers=tuple(layers),
        function_blocks=tuple(_whole_blocks(graph, layers, pruned, judge, progress)),
    )


def _layer(
    name: str, spec: Convolution, macs: int, losses: Sequence[Loss], function_block: str
) -> LayerSensitivity:
    """What was measured of one layer."""
    return LayerSensitivity(
        name=name,
        params=spec.weight.size,
        macs=macs,
        losses=tuple(losses),
        function_block=function_block,
    )


def _whole_blocks(
    graph: gs.Graph,
    layers: Sequence[LayerSensitivity],
    pruned: Mapping[float, Mapping[str, FittedWeights]],
    judge: MapJudge,
    progress: Callable[[str], None],
) -> Iterator[LayerLosses]:
    """All layers of a function block at a time, each pruned and fitted as it was alone."""
    members: dict[str, list[LayerSensitivity]] = defaultdict(list)
    for layer in layers:
        members[layer.function_block].append(layer)
    for number, (name, group) in enumerate(members.items(), 1):
        progress(f"function blocks: {number} of {len(members)} ({name})")
        losses = []
        for ratio, weights in pruned.items():
            chosen = {layer.name: weights[layer.name] for layer in group}
            engine = make_session(with_weights(graph, chosen))
            losses.append(judge.loss(ratio, map(engine.run, judge.feeds())))
        yield LayerLosses(
            name=name,
            params=sum(layer.params for layer in group),
            macs=sum(layer.macs for layer in group),
            losses=tuple(losses),
        )


# --- one layer ----------------------------------------------------------------------------------


class _MeasuredLayers:
    """Layers that a run has measured, a checkpoint each, for the run that goes on."""

    def __init__(self, work: Path, owner: str) -> None:
        self._work, self._owner = work, owner

    def _checkpoint(self, number: int) -> Checkpoint:
        file = place(self._work, self._owner, LAYERS.replace("*", f"*-{number}"))
        return Checkpoint(file, self._owner, ARRAYS)

    def read(self, number: int) -> tuple[LayerSensitivity, list[FittedWeights]] | None:
        """A layer, and its weights by each ratio; None where it was not measured."""
        return self._checkpoint(number).load(_measured_layer)

    def write(self, number: int, layer: LayerSensitivity, fits: Sequence[FittedWeights]) -> None:
        """Keep a layer."""
        text = np.frombuffer(layer.to_json().encode(), np.uint8)
        weights = {f"{i}.weight": fit.weight for i, fit in enumerate(fits)}
        biases = {f"{i}.bias": fit.bias for i, fit in enumerate(fits)}
        self._checkpoint(number).save({"layer": text, **weights, **biases})


def _measured_layer(arrays: dict[str, Any]) -> tuple[LayerSensitivity, list[FittedWeights]]:
    layer = LayerSensitivity.from_json(arrays["layer"].tobytes())
    parts = [(arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in range(len(layer.losses))]
    return layer, [FittedWeights(*part) for part in parts]


def _system(
    spec: Convolution, inputs: Sequence[Array], where: Sequence[Floats | None], seed: int
) -> LeastSquares:
    """What a layer makes when it is dense, at random positions of each image, as a fit to it."""
    unknowns = spec.weight[0].size + 1
    each = -(-max(LEAST_POSITIONS, QUICK_POSITIONS_PER_UNKNOWN * unknowns) // len(inputs))
    system, rng = LeastSquares(spec, RIDGE), np.random.default_rng(seed)
    weights = system.present.astype(np.float32)
    for values, there in zip(inputs, where, strict=True):
        size = spec.output_size(values.shape[2:])
        sample = Sample.of(np.empty((1, 0, *size), np.float32), each, rng, there)
        patches = sample.patches(values, spec)
        system.add(patches, patches @ weights)
    return system


def _pruned(
    spec: Convolution,
    system: LeastSquares,
    block: Block,
    ratios: Sequence[float],
    *,
    rectified: bool,
) -> Iterator[FittedWeights]:
    """A layer without the blocks that it can best do without, and the rest fitted, by each ratio.

    Args:
        spec: the dense layer.
        system: the fit to what that makes.
        block: the extent of a block.
        ratios: parts of the blocks that go, in rising order.
        rectified: only what is positive counts.
    """
    blocks = math.prod(block.mask_shape(spec.weight.shape))
    for mask in system.masks(block, [int(ratio * blocks + 1e-9) for ratio in ratios]):
        system.restrict(expand(mask, block, spec.weight.shape))
        weight, bias = unpacked(system.solve(rectified=rectified), spec)
        yield FittedWeights(weight.astype(np.float32), bias.astype(np.float32))


# --- the whole network --------------------------------------------------------------------------
