"""`prune-blocks`: the blocks of weights that matter least become zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from pydantic import Field

from graphopt.fitting.calibration import Calibration
from graphopt.fitting.layerwise_runner import extract_subgraph, make_session
from graphopt.ir.block_structure import BLOCKS, BlockName, expand, kept_mask, sums, without
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import constant
from graphopt.ir.graph import is_standard, label
from graphopt.optimizer.pass_contract import Change, Context, Numerics, PreparedPass, Skip, option
from graphopt.sparsity.eligible import NARROW, ineligible_reasons
from graphopt.sparsity.plan import PruningPlan, plan_for

Doubles = NDArray[np.float64]

PHOTOS = 40
"""Calibration images to take statistics from."""


Energies: TypeAlias = Mapping[str, Doubles]
"""The mean square of each channel [C] of what layers read, by the tensor's name."""


@dataclass(frozen=True)
class Site:
    """A convolution to prune."""

    node: gs.Node
    spec: Convolution
    ratio: float
    """The part of its blocks that goes."""
    block: BlockName
    energy: Doubles | None
    """The mean square of each channel that it reads [C]; None where nothing was measured."""


@dataclass(frozen=True)
class PruneBlocks(PreparedPass[Site, Energies | None]):
    """Make those blocks of a convolution's weights zero that matter least to what it computes.

    Rewrite:
        A weight (filters, channels, kh, kw) is cut into blocks of 8 filters x 4 channels at one
        position of the kernel. Of all blocks of a layer the part `ratio` becomes zero: those with
        the least sum of w^2 E[x^2], where E[x^2] is the mean square of the channel that a weight is
        multiplied with, taken from calibration photos. Without photos it is the sum of w^2. The
        convolution stays an ordinary one with zeros in it; other passes and `compile` find them.

    Numerics:
        Approximate, but nothing for a network as it is: let `reconstruct` follow, which fits the
        weights that are left. Lightweight OpenPose with half of its weights finds nobody before
        that.

    Why:
        A kernel may leave zero blocks out and still fill its vectors, so that time falls with
        multiply-adds (Niu et al., "YOLObile", AAAI 2021, section 3). w^2 E[x^2] is what the output
        loses in the mean square if inputs are uncorrelated (Sun et al., "A Simple and Effective
        Pruning Approach for Large Language Models", ICLR 2024, section 3).

    When it skips:
        The convolution is the network's first, or its output reaches the network's without another
        one; it is grouped or depthwise; it reads or makes fewer than `narrow` channels; it is not
        two-dimensional; it has that many zero blocks already; the plan does not name it.

    Examples:
        prune-blocks{ratio=0.75}
            a = Conv(x, first) b = Conv(a, inner) y = Conv(b, last)
            ->  Conv Conv Conv: 216 of 288 blocks of 8x4 go
    """

    name: ClassVar[str] = "prune-blocks"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE

    ratio: Annotated[float, Field(ge=0, lt=1)] = option(0.5, "part of a layer's blocks that goes")
    block: BlockName = option("8x4", "filters x channels of a block")
    plan: str = option(
        "", "a JSON file that says it for each layer, instead of `ratio` and `block`"
    )
    score: Literal["activation", "magnitude"] = option(
        "activation", "what a block is worth: w^2 E[x^2], where there are photos, or w^2"
    )
    narrow: Annotated[int, Field(ge=1)] = option(
        NARROW, "channels, in or out, below which a layer is left alone"
    )

    def prepare(self, graph: gs.Graph, context: Context) -> Energies | None:
        if context.calibration is None or self.score == "magnitude":
            return None
        context.progress(f"{self.name}: what the layers see")
        sites = [found for found in self.match(graph, None) if isinstance(found, Site)]
        return mean_squares(graph, sites, context.calibration)

    def match(self, graph: gs.Graph, facts: Energies | None) -> Iterator[Site | Skip]:
        plan = plan_for(graph, self.plan) if self.plan else None
        reasons = ineligible_reasons(graph, self.narrow)
        for node in list(graph.nodes):
            if is_standard(node, "Conv"):
                reason = reasons.get(node)
                yield Skip(label(node), reason) if reason else self._site(node, plan, facts)

    def _site(
        self, node: gs.Node, plan: PruningPlan | None, energies: Energies | None
    ) -> Site | Skip:
        name, spec = label(node), Convolution.of(node)
        assert spec is not None
        if plan is not None and name not in plan.layers:
            return Skip(name, "the plan leaves it alone")
        energy = None if energies is None else energies[node.inputs[0].name]
        if plan is None:
            return Site(node, spec, self.ratio, self.block, energy)
        return Site(node, spec, plan.layers[name], plan.block, energy)

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        energy, worth = site.energy, "w^2 E[x^2]"
        if energy is None:
            energy, worth = np.ones(site.spec.in_channels), "w^2"
        node, weight, block = site.node, site.spec.weight, BLOCKS[site.block]
        scores = sums(weight.astype(np.float64) ** 2 * energy[:, None, None], block)
        present = kept_mask(weight, block)
        num_pruned = int(site.ratio * scores.size + 1e-9)
        if num_pruned <= np.count_nonzero(~present):
            was = np.count_nonzero(~present)
            return Skip(label(node), f"{was} of {scores.size} blocks are zero already")
        mask = without(present, scores, num_pruned)
        values = np.where(expand(mask, block, weight.shape), weight, 0).astype(weight.dtype)
        # A constant of its own: others may share the weight.
        node.inputs[1] = constant(graph, node.inputs[1].name, values)
        lost = scores[~mask].sum() / max(scores.sum(), 1e-30)
        summary = (
            f"{num_pruned} of {scores.size} blocks of {site.block} go, with {lost:.1%} of {worth}"
        )
        return Change(label(node), summary)


def mean_squares(graph: gs.Graph, sites: Sequence[Site], calibration: Calibration) -> Energies:
    """What the sites read in calibration images."""
    names = sorted({site.node.inputs[0].name for site in sites})
    if not names:
        return {}
    engine = make_session(extract_subgraph(graph, outputs=names))
    images = calibration.fitting[:PHOTOS]
    totals: dict[str, Doubles] = {}
    for feed in calibration.feeds(images):
        for name, values in engine.run(feed).items():
            squares = np.square(values, dtype=np.float64).mean(axis=(0, 2, 3))
            totals[name] = totals.get(name, 0.0) + squares / len(images)
    return totals
