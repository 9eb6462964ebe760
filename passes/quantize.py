"""`quantize`: a network in eight bits, fitted to photos."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.errors import InputError
from graphopt.fitting.quantization.costs import TROUBLE
from graphopt.fitting.quantization.eligible import objection
from graphopt.fitting.quantization.placement import placement_of
from graphopt.fitting.quantization.quantization import Recipe, Settings, quantise
from graphopt.fitting.quantization.writing import Site, begin, sites_of, write_site
from graphopt.ir.changes import ALL
from graphopt.ir.graph import label
from graphopt.optimizer.int8_budget import Budget, kind_of, recipe_within
from graphopt.optimizer.pass_contract import (
    Change,
    Context,
    Numerics,
    Outcome,
    PreparedPass,
    Skip,
    option,
)

FLOAT_SHARE = 0.8
"""Of the multiply-adds, for what costs the outputs most; beyond it eight bits gain nothing."""


@dataclass(frozen=True)
class Quantize(PreparedPass[Site, Recipe | None]):
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
        that are not constant, half precision. Where rounding activations moves the outputs by more
        than a tenth of their deviation, the layers that make most of it stay float, up to
        float_share of the multiply-adds: the reason says their error and share. With max_shift or
        max_ap_drop, layers that cost the poses most stay float, as few as hold that: the reason
        says what each costs alone.

    Examples:
        quantize
            y = Conv(x, maps)
            ->  DequantizeLinear DequantizeLinear QuantizeLinear DequantizeLinear
                Conv: in eight bits
    """

    name: ClassVar[str] = "quantize"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE

    activations: Literal["uint8", "int8"] = option("uint8", "type of the activations")
    photos: Annotated[int, Field(ge=1)] = option(100, "how many to fit on at most")
    ridge: Annotated[float, Field(gt=0)] = option(
        1e-2, "pull toward the present weights, relative to the mean square of a layer's input"
    )
    max_shift: Annotated[float, Field(ge=0)] = option(
        0.0,
        "leave the fewest layers float that keep key points this close on held-out photos, in "
        "input pixels; 0: no limit",
    )
    max_ap_drop: Annotated[float, Field(ge=0, le=1)] = option(
        0.0,
        "the same for 1 - OKS to the float network's people, which stands in for AP; 0: no limit",
    )
    float_share: Annotated[float, Field(ge=0, le=1)] = option(
        FLOAT_SHARE,
        "of the multiply-adds: layers whose rounding moves the outputs most stay float, up to it",
    )
    seed: int = option(0, "of the positions in photos; the same seed gives the same weights")

    @property
    def needs_images(self) -> bool:
        return True

    def prepare(self, graph: gs.Graph, context: Context) -> Recipe | None:
        if objection(graph) or not placement_of(graph).layers:
            return None
        if context.calibration is None:
            raise InputError(
                "ranges and weights are fitted on what the network sees, and there are no images "
                "to show it",
                hint="give a folder of photos with --calib",
            )
        kind = kind_of(context.calibration.spec)
        budget = Budget(self.max_shift or float("inf"), self.max_ap_drop or 1.0)
        settings = Settings(
            photos=self.photos,
            ridge=self.ridge,
            signed=self.activations == "int8",
            seed=self.seed,
            float_share=self.float_share,
            tolerance=TROUBLE if budget.limited else kind.tolerance,
        )
        recipe = quantise(graph, context.calibration, settings, progress=context.progress)
        if not budget.limited and recipe.joint:
            return recipe
        if not budget.limited:
            budget = Budget(drop=kind.drop, share=self.float_share)
        return recipe_within(graph, recipe, context.calibration, budget, settings, context.progress)

    def match(self, graph: gs.Graph, facts: Recipe | None) -> Iterator[Site | Skip]:
        if facts is None:
            reason = objection(graph)
            if reason:
                yield Skip(ALL, reason)
            return
        if facts.floats:
            yield Skip(
                ALL,
                f"{len(facts.floats)} of {len(facts.layers)} layers, with {facts.float_share:.0%} "
                "of the multiply-adds, stay float, since eight bits would cost much there; eight "
                "bits do not make those faster",
            )
        yield from placement_of(graph).skips
        for node in graph.nodes:
            if node.outputs and node.outputs[0].name in facts.floats:
                yield Skip(label(node), facts.floats[node.outputs[0].name])
        yield from sites_of(graph, facts, facts.floats)

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        write_site(graph, site)
        name, fitted = label(site.node), site.fitted
        if fitted is None:
            return Change(name, f"{site.node.op} of eight bits")
        error = "" if fitted.error is None else f", error on held-out photos {fitted.error:.3f}"
        return Change(name, f"{site.node.op} in eight bits{error}")

    def sweep(
        self, graph: gs.Graph, facts: Recipe | None, without: Collection[int] = ()
    ) -> Outcome:
        if facts is not None and len(facts.floats) < len(facts.layers):
            begin(graph, facts)
        return super().sweep(graph, facts, without)
