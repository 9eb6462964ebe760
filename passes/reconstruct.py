"""`reconstruct`: weights fitted again, so that a changed network does what the original did."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.errors import InputError
from graphopt.fitting.reconstruct import Reconstruction
from graphopt.ir.graph import label
from graphopt.optimizer.pass_contract import (
    Change,
    Context,
    Numerics,
    Outcome,
    PreparedPass,
    Skip,
    option,
)


@dataclass(frozen=True)
class Layer:
    """A convolution to fit, and what fits it: each sees what those before it came to."""

    node: gs.Node
    work: Reconstruction


@dataclass(frozen=True)
class Reconstruct(PreparedPass[Layer, Reconstruction]):
    """Fit each convolution to what the original network makes at the same place, from photos.

    Rewrite:
        The weights and bias of a convolution become those that, from what the changed network
        feeds it, come closest to the original's tensor of the same name: least squares over
        positions of the calibration's photos, one layer after the other. No labels are needed.
        In a stack that took one layer's place only the last output has a counterpart: the layers
        before it are fitted through those behind them, by conjugate gradients.
        Where only a Relu reads the tensor, what is negative in both need not be equal.
        Blocks of weights that are zero (`prune-blocks`) stay zero; masks=choose drops as many
        others instead, one layer after the other, by what it costs the fit (Frantar and Alistarh,
        "Optimal Brain Compression", NeurIPS 2022, section 4).

    Numerics:
        Approximate; it makes up for what the passes before it changed. On EfficientPose I after
        `replace-swish` the outputs' error on photos that were not fitted on falls from 1.16 to
        0.44 of their deviation (60 photos, 48 s on one core).

    Why:
        A change that costs a layer little adds up with depth. Fitted in order, each layer sees the
        errors of those before it and corrects what it can (Zhang et al., TPAMI 2016, section 3.2).

    When it skips:
        The original has no tensor of that name, and none of a convolution right behind it, or
        another shape there; the fitted weights are not better on held-out photos. If all of them
        together leave the outputs no nearer to the original's, every layer gets its old weights
        back. Layers that still make what the original makes are no sites.

    Examples:
        prune-blocks, reconstruct
            a = Conv(x, first) b = Conv(a, inner) y = Conv(b, last)
            ->  Conv Conv Conv: error on held-out photos from
    """

    name: ClassVar[str] = "reconstruct"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE
    repairs: ClassVar[bool] = True

    ridge: Annotated[float, Field(gt=0)] = option(
        1e-2, "pull toward the present weights, relative to the mean square of a layer's input"
    )
    photos: Annotated[int, Field(ge=1)] = option(100, "how many to fit on at most")
    masks: Literal["keep", "choose"] = option(
        "keep",
        "zero blocks (`prune-blocks`) stay zero, or as many others take their place, where the fit "
        "can do without those more easily; takes longer",
    )
    seed: int = option(0, "of the positions in photos; the same seed gives the same weights")
    checkpoint: str = option("", "file to keep each layer's fit in, and to go on from")

    @property
    def needs_images(self) -> bool:
        return True

    def prepare(self, graph: gs.Graph, context: Context) -> Reconstruction:
        if context.original is None or context.calibration is None:
            raise InputError(
                "weights are fitted on what the network sees, and there are no images to show it",
                hint="give a folder of photos with --calib",
            )
        return Reconstruction(
            graph,
            context.original,
            context.calibration,
            ridge=self.ridge,
            photos=self.photos,
            masks=self.masks,
            seed=self.seed,
            checkpoint=Path(self.checkpoint) if self.checkpoint else context.work,
            progress=context.progress,
        )

    def match(self, graph: gs.Graph, facts: Reconstruction) -> Iterator[Layer | Skip]:  # noqa: ARG002
        for found in facts.sites():
            yield found if isinstance(found, Skip) else Layer(found, facts)

    def rewrite(self, graph: gs.Graph, site: Layer) -> Change | Skip:  # noqa: ARG002
        result = site.work.fit(site.node)
        errors = f"{result.before:.3f} to {result.after:.3f} of the target's deviation"
        if not result.accepted:
            return Skip(label(site.node), "fitted weights are no better on held-out photos")
        return Change(label(site.node), f"error on held-out photos from {errors}")

    def sweep(
        self, graph: gs.Graph, facts: Reconstruction, without: Collection[int] = ()
    ) -> Outcome:
        outcome = super().sweep(graph, facts, without)
        after = facts.settle()
        if after < facts.before:
            return outcome
        errors = f"{facts.before:.3f} to {after:.3f}"
        reason = f"taken back: on held-out photos the outputs' error goes from {errors}"
        undone = [Skip(change.node, reason) for change in outcome.changes]
        return Outcome((), (*outcome.skips, *undone))
