"""`distill`: all weights trained together, until the network gives the original's maps again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.errors import InputError
from graphopt.fitting.distill import distill
from graphopt.fitting.distill_options import DistillOptions, DistillReport, TrainDevice
from graphopt.ir.graph import constant_of, label
from graphopt.ir.onnx_io import load_model
from graphopt.optimizer.pass_contract import Change, Context, Numerics, PreparedPass, Skip, option

TrainableLayer = tuple[gs.Node, gs.Node]
"""A node of the graph, and the same node with trained weights."""


@dataclass(frozen=True)
class Training:
    """What training gave."""

    graph: gs.Graph
    """The network with trained weights."""
    report: DistillReport


@dataclass(frozen=True)
class Distill(PreparedPass[TrainableLayer, Training]):
    """Train the changed network to give the original's outputs, from photos without labels.

    Rewrite:
        The weights and biases of all convolutions and matrix products are trained together on
        random crops of the calibration's photos; the target is what the original network
        makes of the same crops. Blocks of weights that are zero (`prune-blocks`) stay zero.

    Numerics:
        Approximate; it makes up for what the passes before it changed, also for what layer-wise
        fitting cannot: put it after `reconstruct`. The weights that were best on held-out photos
        are kept.

    Why:
        Errors that layers leave behind can cancel, but only if the layers are fitted together
        (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).

    When it skips:
        Training did not come closer to the original on held-out photos.

    Examples:
        prune-blocks, distill{steps=50, batch=2}
            a = Conv(x, first) b = Conv(a, inner) y = Conv(b, last)
            ->  Conv Conv Conv: trained
    """

    name: ClassVar[str] = "distill"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE
    repairs: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = option(600, "batches to train on")
    batch: Annotated[int, Field(ge=1)] = option(8, "crops in a batch")
    crop: Annotated[int, Field(ge=32)] = option(
        224, "height and width of a crop, where the network takes any size"
    )
    rate: Annotated[float, Field(gt=0)] = option(
        3e-4, "learning rate, before each layer's own scale (see graphopt/fitting/distill.py)"
    )
    patience: Annotated[int, Field(ge=1)] = option(
        6, "looks at held-out photos in vain, 50 steps apart, before it stops in its second half"
    )
    seed: int = option(0, "of crops; the same seed gives the same weights")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "what training computes in; auto is bfloat16 where the device is fast at it"
    )
    device: TrainDevice = option(
        "cpu", "what to train on; several take part if torchrun starts the command"
    )
    teacher: str = option(
        "", "an ONNX file to learn from, instead of the network before all passes"
    )
    checkpoint: str = option("", "file to keep the state in, and to go on from")

    @property
    def needs_images(self) -> bool:
        return True

    def prepare(self, graph: gs.Graph, context: Context) -> Training:
        teacher = load_model(Path(self.teacher)) if self.teacher else context.original
        if teacher is None or context.calibration is None:
            raise InputError(
                "there are no photos to train on", hint="give a folder of them with --calib"
            )
        trained, report = distill(
            graph,
            teacher,
            context.calibration,
            DistillOptions(
                steps=self.steps,
                batch=self.batch,
                crop=self.crop,
                rate=self.rate,
                patience=self.patience,
                seed=self.seed,
                precision=self.precision,
                device=self.device,
            ),
            checkpoint=Path(self.checkpoint) if self.checkpoint else context.work,
            progress=context.progress,
        )
        return Training(trained, report)

    def match(self, graph: gs.Graph, facts: Training) -> Iterator[TrainableLayer | Skip]:
        report = facts.report
        errors = f"error on held-out crops {report.before:.4f} to {report.after:.4f}"
        twins = {node.outputs[0].name: node for node in facts.graph.nodes}
        for node in list(graph.nodes):
            twin = twins[node.outputs[0].name]
            pairs = zip(node.inputs[1:3], twin.inputs[1:3], strict=True)
            values = [(constant_of(a), constant_of(b)) for a, b in pairs]
            if any(a is not None and b is not None and (a != b).any() for a, b in values):
                yield node, twin
        yield Skip("(all)", f"{errors} in {report.steps} steps, {report.seconds:.0f} s")

    def rewrite(self, graph: gs.Graph, site: TrainableLayer) -> Change | Skip:  # noqa: ARG002
        node, trained = site
        for position in (1, 2)[: len(node.inputs) - 1]:
            weight, values = node.inputs[position], constant_of(trained.inputs[position])
            assert isinstance(weight, gs.Constant)
            assert values is not None
            weight.values = values
        return Change(label(node), "trained")
