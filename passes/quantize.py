"""`quantize`: a network in eight bits, fitted to photos."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.errors import InputError
from graphopt.fitting.quantization.eligible import objection, raise_opset
from graphopt.fitting.quantization.grids import Grid
from graphopt.fitting.quantization.placement import placement_of
from graphopt.fitting.quantization.qdq import put_weights, store, write_layer
from graphopt.fitting.quantization.quantization import Recipe, Settings, quantise
from graphopt.ir.graph import label
from graphopt.optimizer.pass_contract import Change, Context, Numerics, Outcome, Pass, Skip, option


@dataclass(frozen=True)
class Site:
    """A node to compute in eight bits."""

    node: gs.Node
    grids: tuple[Grid | None, ...] = ()
    """Of what it reads."""


@dataclass(frozen=True)
class Quantize(Pass[Site]):
    """Store activations and weights in eight bits, fitted to photos without labels.

    Rewrite:
        What convolutions and matrix products read, and sums, concatenations, pools and resizing
        between them, goes through QuantizeLinear and DequantizeLinear (8 bits, one scale a tensor;
        what Concat, MaxPool and the like join shares one). Weights become int8 with a scale for
        each output channel, biases int32. A Relu, or Clip from 0 on, whose work the rounding does
        goes. The network's outputs stay float, computed from inputs in eight bits. Stock engines
        run this as integer kernels.
        Ranges are those of the least square error on photos. Channels are scaled to fill them
        where that is exact (Nagel et al., ICCV 2019). Then each layer in order is fitted to the
        float network's output by least squares, from what the rounded network feeds it; weights
        are rounded one after the other, the others making up for it (Frantar et al., "GPTQ", ICLR
        2023), the bias last. Weights that are zero (`prune-blocks`) stay zero.

    Numerics:
        Approximate: the report says how far each layer's output is from the float network's.

    Why:
        CPUs and phones multiply 8-bit integers 4 to 16 times as fast as floats, and the file is a
        quarter.

    When it skips:
        The network is quantised already; its opset is older than 13 and cannot be raised; weights
        that are not constant, half precision.
    """

    name: ClassVar[str] = "quantize"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE

    activations: Literal["uint8", "int8"] = option("uint8", "type of the activations")
    photos: Annotated[int, Field(ge=1)] = option(100, "how many to fit on at most")
    ridge: Annotated[float, Field(gt=0)] = option(
        1e-2, "pull toward the present weights, relative to the mean square of a layer's input"
    )
    seed: int = option(0, "of the positions in photos; the same seed gives the same weights")

    @property
    def needs_images(self) -> bool:
        return True

    def prepare(self, graph: gs.Graph, context: Context) -> Pass[Site]:
        if objection(graph) or not placement_of(graph).layers:
            return self
        if context.calibration is None:
            raise InputError(
                "ranges and weights are fitted on what the network sees, and there are no images "
                "to show it",
                hint="give a folder of photos with --calib",
            )
        settings = Settings(
            photos=self.photos,
            ridge=self.ridge,
            signed=self.activations == "int8",
            seed=self.seed,
        )
        recipe = quantise(graph, context.calibration, settings, progress=context.progress)
        return _Fitted(**vars(self), recipe=recipe)

    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        reason = objection(graph)
        if reason:
            yield Skip("(all)", reason)
            return
        placement = placement_of(graph)
        yield from placement.skips
        for node in (*placement.layers, *placement.carriers):
            yield Site(node)

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:  # noqa: ARG002
        return Skip(label(site.node), "it is fitted on photos only")


@dataclass(frozen=True)
class _Fitted(Quantize):
    """The pass when it knows steps and weights."""

    recipe: Recipe = field(kw_only=True)

    def sweep(self, graph: gs.Graph, without: Collection[int] = ()) -> Outcome:
        raise_opset(graph)
        for node in graph.nodes:
            fitted = self.recipe.layers.get(node.outputs[0].name) if node.outputs else None
            if fitted is not None:
                put_weights(graph, node, *fitted.floats)
        return super().sweep(graph, without)

    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        placement, grids = placement_of(graph), self.recipe.grids
        yield from placement.skips
        # As it is before anything is rewritten.
        yield from [
            Site(node, tuple(grids.get(tensor.name) for tensor in node.inputs))
            for node in (*placement.layers, *placement.carriers)
        ]

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        node, name = site.node, label(site.node)
        fitted = self.recipe.layers.get(node.outputs[0].name)
        if fitted is None:
            for tensor, grid in zip(list(node.inputs), site.grids, strict=True):
                if grid is not None:
                    store(graph, tensor, grid)
            return Change(name, f"{node.op} of eight bits")
        grid = site.grids[0]
        assert grid is not None
        write_layer(graph, node, fitted.weights, grid)
        error = "" if fitted.error is None else f": held-out photos, error {fitted.error:.3f}"
        return Change(name, f"{node.op} in eight bits{error}")
