"""A network in eight bits, from photos without labels: ranges, then weights layer by layer.

Each layer is fitted to what the float network makes at its place, from what the network that is
rounded so far feeds it, so that it makes up for the rounding before it as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.fitting.calibration import Calibration
from graphopt.fitting.layerwise_runner import LayerwiseRunner, bytes_of, live_tensors, shapes_of
from graphopt.fitting.quantization.costs import (
    TOLERANCE,
    TROUBLE,
    Weights,
    costliest,
    costs_of,
    reasons_of,
    rounding_error,
    shares_of,
)
from graphopt.fitting.quantization.equalisation import equalise
from graphopt.fitting.quantization.fit_layer import FittedLayer, fit_convolution, plain_rounding
from graphopt.fitting.quantization.grids import Grid
from graphopt.fitting.quantization.observe import Observations, Seen, observe
from graphopt.fitting.quantization.ordinary import Ordinary, ordinary
from graphopt.fitting.quantization.placement import (
    Placement,
    ceiling_of,
    folded_activation,
    placement_of,
)
from graphopt.fitting.quantization.qdq import put_weights, store_all
from graphopt.fitting.quantization.ranges import least_error
from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import constant_of, input_of, label, positions
from graphopt.ir.network import Network

Doubles = NDArray[np.float64]
Image: TypeAlias = Path | int
MEMORY = 2 << 30
"""Bytes of activations held between two layers; where they would take more, fewer images are."""
POSITIONS_PER_UNKNOWN = 16
"""Output positions to fit on, as a multiple of the unknowns of one filter."""
LEAST_POSITIONS = 4096
"""The fewest output positions to fit on."""
LOOKED_AT = 5
"""Held-out images at most on which the costs of layers are measured."""
PATCHES = 1 << 27
"""The most numbers that the output positions may see in all."""


@dataclass(frozen=True)
class Recipe:
    """A network in eight bits: what is needed to write it."""

    grids: Mapping[str, Grid]
    """Of each tensor that is stored in eight bits."""
    layers: Mapping[str, FittedLayer]
    """By the name of the layer's output."""
    images: int
    """How many were fitted on."""
    floats: Mapping[str, str] = field(default_factory=dict)
    """Layers that stay float, by the names of their outputs, and why."""
    joint: bool = True
    """See `Placement`."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of all layers' multiply-adds, by the name of a layer's output."""

    @property
    def float_share(self) -> float:
        """Of the multiply-adds, what stays float."""
        return sum(self.shares[name] for name in self.floats)


@dataclass(frozen=True)
class Settings:
    """How weights and ranges are found."""

    photos: int = 100
    ridge: float = 1e-2
    signed: bool = False
    seed: int = 0
    float_share: float = 0.0
    """Of the multiply-adds: layers that cost the outputs most stay float, up to it."""
    tolerance: float = TOLERANCE
    """The outputs' error from rounding activations that is aimed at, relative to their
    deviation."""


def quantise(
    graph: gs.Graph,
    calibration: Calibration,
    settings: Settings = Settings(),
    *,
    floats: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Recipe:
    """Find the steps and weights of a network in eight bits.

    Args:
        graph: the float network; it is not changed.
        calibration: what to fit and to judge on.
        settings: how.
        floats: layers that stay float, by the names of their outputs, and why, if that is known.
        progress: told what is being done.

    Raises:
        InputError: the network does not run on the images.
    """
    return _Work(Network.of(graph).copy(), calibration, settings, progress).recipe(floats)


class _Work:
    """The arguments are those of `quantise`, but the graph is changed."""

    def __init__(
        self,
        graph: gs.Graph,
        calibration: Calibration,
        settings: Settings,
        progress: Callable[[str], None],
    ) -> None:
        self._graph, self._calibration = graph, calibration
        self._settings, self._progress = settings, progress
        self._placement = placement_of(graph)
        self._fitting, self._held_out = self._images()

    def recipe(self, known: Mapping[str, str] | None) -> Recipe:
        """All of it; layers that are known to stay float do."""
        self._progress("quantize: what the layers see")
        seen = self._observed()
        divided = equalise(self._graph, self._placement, seen.tensors)
        seen = seen.divided(divided)
        grids = self._grids(self._placement, seen)
        floats: dict[str, str] = {}
        if known is not None or (self._settings.float_share and self._is_trouble(grids)):
            self._placement = placement_of(self._graph, joint=False)
            grids = self._grids(self._placement, seen)
            floats = self._floats(seen, grids) if known is None else dict(known)
        joint, probe = self._placement.joint, next(self._feeds())
        shares = shares_of(self._graph, placement_of(self._graph), probe)
        self._placement = placement_of(self._graph, floats, joint=joint)
        grids = {name: grids[name] for name in self._placement.grids}
        kept = {
            node.outputs[0].name: _rounded_as_it_is(node, Convolution.of(node))
            for node in self._graph.nodes
            if node.outputs and node.outputs[0].name in floats
        }
        places = {
            node.outputs[0].name: (node.inputs[0].name, ordinary(node))
            for node in self._placement.layers
        }
        store_all(self._graph, self._placement, grids)
        layers = self._layers(seen, grids, places)
        return Recipe(grids, layers | kept, len(self._fitting), floats, joint, shares)

    def _is_trouble(self, grids: Mapping[str, Grid]) -> bool:
        """Whether rounding all that can be costs the outputs much."""
        self._progress("quantize: what rounding costs")
        feeds = list(self._calibration.feeds(self._calibration.held_out[:LOOKED_AT]))
        return rounding_error(self._graph, self._placement, grids, feeds) >= TROUBLE

    def _floats(self, seen: Observations, grids: Mapping[str, Grid]) -> dict[str, str]:
        """Layers that stay float for what they would cost, and why."""
        feeds = list(self._calibration.feeds(self._calibration.held_out[:LOOKED_AT]))
        rounded = {
            node.outputs[0].name: _as_they_are(node, seen.tensors[node.inputs[0].name])
            for node in self._placement.layers
        }
        costs = costs_of(self._graph, self._placement, grids, feeds, rounded, self._progress)
        return reasons_of(costliest(costs, self._settings.float_share, self._settings.tolerance))

    def _images(self) -> tuple[list[Image], list[Image]]:
        """Which to fit on, and which to judge by."""
        nodes = self._placement.layers
        probe = next(self._calibration.feeds(self._calibration.held_out))
        shapes = shapes_of(self._graph, probe)
        sizes = (
            sum(bytes_of(shapes[n]) for n in names if n in shapes)
            for names in live_tensors(self._graph, nodes)
        )
        fitting, held_out = self._calibration.fitting, self._calibration.held_out
        share = len(held_out) / len(fitting)
        most = max(1, int(MEMORY / max(1.0, max(sizes) * (1 + share))))
        chosen = fitting[: min(self._settings.photos, most)]
        return list(chosen), list(held_out[: math.ceil(share * len(chosen))])

    def _feeds(self) -> Iterator[Mapping[str, Array]]:
        return self._calibration.feeds([*self._fitting, *self._held_out])

    def _observed(self) -> Observations:
        wanted = {}
        for node in self._placement.layers:
            layer = ordinary(node)
            if layer is None or not layer.can_be_fitted:
                continue
            spec = layer.spec
            unknowns = math.prod(spec.weight.shape[1:]) + 1
            most = PATCHES // (unknowns * spec.group)
            positions = max(LEAST_POSITIONS, min(POSITIONS_PER_UNKNOWN * unknowns, most))
            wanted[node.outputs[0].name] = math.ceil(positions / len(self._fitting))
        return observe(
            self._graph,
            self._feeds,
            list(self._placement.grids),
            wanted,
            count=len(self._fitting) + len(self._held_out),
            seed=self._settings.seed,
        )

    def _grids(self, placement: Placement, seen: Observations) -> dict[str, Grid]:
        grids: dict[str, Grid] = {}
        energies = self._energies(seen)
        tensors = self._graph.tensors()
        for names in placement.groups.values():
            ceilings = []
            for name in names:
                activation = folded_activation(self._graph, tensors[name])
                limit = None if activation is None else ceiling_of(activation)
                ceilings.append(float("inf") if limit is None else limit)
            grid = least_error(
                [seen.tensors[name] for name in names],
                [energies[name] for name in names],
                ceiling=max(ceilings),
                signed=self._settings.signed,
            )
            grids |= dict.fromkeys(names, grid)
        return grids

    def _energies(self, seen: Observations) -> dict[str, Doubles]:
        """How much an error in each channel of a tensor counts: what its readers make of it."""
        energies: dict[str, Doubles] = {}
        for name in self._placement.grids:
            channels = seen.tensors[name].values.shape[1]
            total = np.zeros(channels)
            for node in self._graph.tensors()[name].outputs:
                layer = ordinary(node)
                if layer is None or layer.spec.in_channels != channels:
                    continue
                spec = layer.spec
                squares = np.square(spec.weight, dtype=np.float64).sum(axis=(2, 3))
                grouped = squares.reshape(spec.group, -1, squares.shape[1]).sum(axis=1)
                total += grouped.ravel()
            energies[name] = total / total.mean() if total.any() else np.ones(channels)
        return energies

    def _layers(
        self,
        seen: Observations,
        grids: Mapping[str, Grid],
        places: Mapping[str, tuple[str, Ordinary | None]],
    ) -> dict[str, FittedLayer]:
        """Fit and round each layer, by the name of its output.

        Args:
            seen: what it is to make.
            grids: of tensors.
            places: the tensor that each layer reads, and it as a convolution, before anything was
                rounded.
        """
        nodes = sorted(self._placement.layers, key=positions(self._graph).__getitem__)
        walk = LayerwiseRunner(self._graph, nodes, self._feeds())
        found: dict[str, FittedLayer] = {}
        for number, node in enumerate(nodes, 1):
            self._progress(f"quantize: {number} of {len(nodes)} ({label(node)})")
            inputs = walk.advance_to(node)
            name = node.outputs[0].name
            (read, layer), samples = places[name], seen.targets.get(name)
            if samples is not None and layer is not None:
                fitted = fit_convolution(
                    layer,
                    inputs,
                    samples,
                    len(self._fitting),
                    grids[read].scale,
                    ridge=self._settings.ridge,
                )
            else:
                fitted = _rounded_as_it_is(node, Convolution.of(node))
            found[name] = fitted
            put_weights(self._graph, node, fitted.weights.values, fitted.weights.bias)
        return found


def _rounded_as_it_is(node: gs.Node, spec: Convolution | None) -> FittedLayer:
    weight = constant_of(node.inputs[1])
    bias_tensor = input_of(node, 2)
    bias = None if bias_tensor is None else constant_of(bias_tensor)
    assert weight is not None
    axis = 0 if node.op == "Conv" or node.attrs.get("transB") else 1
    each = spec is None or spec.op == "Conv" or spec.group == 1
    return plain_rounding(weight.astype(np.float32), bias, axis, each=each)


def _as_they_are(node: gs.Node, seen: Seen) -> Weights:
    """A layer's weights, rounded without a fit, and the bias that makes up for it in the mean."""
    layer = ordinary(node)
    fitted = _rounded_as_it_is(node, Convolution.of(node))
    values, bias = fitted.weights.values, fitted.weights.bias
    means = seen.values.mean(axis=0, dtype=np.float64)
    if layer is None or layer.spec.in_channels != len(means):
        return values, bias
    spec, means = layer.spec, means / math.prod(layer.apart)
    lost = (spec.weight.astype(np.float64) - layer.as_written(values)).sum(axis=(2, 3))
    grouped = lost.reshape(spec.group, -1, lost.shape[1]) @ means.reshape(spec.group, -1, 1)
    moved = grouped.ravel()
    return values, moved if bias is None else bias + moved
