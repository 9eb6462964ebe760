"""`reconstruct`: weights fitted again, so that a changed network does what the original did."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.errors import InputError
from graphopt.fitting.reconstruct import Reconstruction
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import label
from graphopt.optimizer.pass_contract import Change, Context, Numerics, Outcome, Pass, Skip, option


@dataclass(frozen=True)
class Reconstruct(Pass[gs.Node]):
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

    def prepare(self, graph: gs.Graph, context: Context) -> Pass[gs.Node]:
        if context.original is None or context.calibration is None:
            raise InputError(
                "weights are fitted on what the network sees, and there are no images to show it",
                hint="give a folder of photos with --calib",
            )
        work = Reconstruction(
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
        return _Fitting(**vars(self), work=work)

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:
        for node in graph.nodes:
            spec = Convolution.of(node)
            if spec is not None and spec.op == "Conv":
                yield node

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:  # noqa: ARG002
        return Skip(label(site), "it is fitted on photos only")


@dataclass(frozen=True)
class _Fitting(Reconstruct):
    """The pass at work."""

    work: Reconstruction = field(kw_only=True)

    def sweep(self, graph: gs.Graph, without: Collection[int] = ()) -> Outcome:
        outcome = super().sweep(graph, without)
        after = self.work.settle()
        if after < self.work.before:
            return outcome
        errors = f"{self.work.before:.3f} to {after:.3f}"
        reason = f"taken back: on held-out photos the outputs' error goes from {errors}"
        undone = [Skip(change.node, reason) for change in outcome.changes]
        return Outcome((), (*outcome.skips, *undone))

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:  # noqa: ARG002
        return self.work.sites()

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:  # noqa: ARG002
        result = self.work.fit(site)
        errors = f"{result.before:.3f} to {result.after:.3f} of the target's deviation"
        if not result.accepted:
            return Skip(label(site), "fitted weights are no better on held-out photos")
        return Change(label(site), f"error on held-out photos from {errors}")
