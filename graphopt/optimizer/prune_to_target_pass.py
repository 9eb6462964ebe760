"""The pass that makes a plan for a target when its turn comes, and then prunes by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx_graphsurgeon as gs

from graphopt.analysis.latency.device import Device
from graphopt.errors import InputError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.checkpoint import SENSITIVITY, fingerprint, place
from graphopt.ir.block_structure import MEASURED, BlockName
from graphopt.ir.files import replacing
from graphopt.optimizer.pass_contract import (
    AnyPass,
    Change,
    Context,
    Numerics,
    PreparedPass,
    Skip,
)
from graphopt.optimizer.prune_to_target import TIMES, Targets, allocate, interpolated, pruned_ms
from graphopt.optimizer.sensitivity import sensitivity
from graphopt.optimizer.sensitivity_file import Sensitivity, read_sensitivity
from graphopt.sparsity.plan import PruningPlan, write_plan


@dataclass(frozen=True)
class PruneToTarget(PreparedPass[Any, Any]):
    """Makes a plan when its turn comes, and then does what the pass does that prunes by it.

    Pipelines cannot name it: only `optimize` makes it, of a target. The network is measured as the
    passes before have left it, and the plan is written. In text it is the pass that reads that
    plan, so that a pipeline from a report can be run again.
    """

    name: ClassVar[str] = "prune-to-target"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE

    targets: Targets
    device: Device | None
    """What pruning has to pay on."""
    pruning: Callable[..., AnyPass]
    """Makes the pass `prune_to_target.PRUNING`, given a `plan`."""
    plan: Path
    """Where the plan is written."""
    measured: Sensitivity | None
    """The layers' sensitivity, where it is known already."""
    tell: Callable[[str], None]
    """Called with what was allocated."""
    block: BlockName = MEASURED["float32"]
    """The extent of what goes at once, where the sensitivity is not known already."""
    shown: Device | None = None
    """What is told of how much faster it is on, where no time is asked for."""

    def __str__(self) -> str:
        return str(self._by_plan)

    @property
    def _by_plan(self) -> AnyPass:
        """The pass that prunes by the plan, once that is written."""
        return self.pruning(plan=str(self.plan))

    @property
    def needs_images(self) -> bool:
        return True

    def prepare(self, graph: gs.Graph, context: Context) -> Any:
        assert context.calibration is not None  # `needs_images`
        measured = self.measured or _measured(graph, context.calibration, context, self.block)
        found = allocate(
            graph,
            interpolated(measured),
            self.targets,
            device=self.device,
            original=context.original,
        )
        write_plan(found.plan, self.plan)
        self.tell(f"{found} ({self.plan})")
        if self.shown and not TIMES & self.targets.keys():
            self._warn(graph, found.plan, self.shown)
        return self._by_plan.prepare(graph, context)

    def _warn(self, graph: gs.Graph, plan: PruningPlan, device: Device) -> None:
        """Tell what fewer multiply-adds buy, which is not what their number says."""
        try:
            before, after = pruned_ms(graph, plan, device)
        except InputError:  # the size is not known, and so neither are times
            return
        self.tell(
            f"--compression counts multiply-adds: pruning by it is predicted to buy {before:.1f} → "
            f"{after:.1f} ms on {device.name}, {before / after:.2f} times as fast; --speedup asks "
            "for what counts"
        )

    def match(self, graph: gs.Graph, facts: Any) -> Iterator[Any]:
        return self._by_plan.sites(graph, facts)

    def rewrite(self, graph: gs.Graph, site: Any) -> Change | Skip:
        return self._by_plan.rewrite(graph, site)


def _measured(
    graph: gs.Graph, calibration: Calibration, context: Context, block: BlockName
) -> Sensitivity:
    """The sensitivity, or what an interrupted run kept of it."""
    kept = None
    if context.work:
        kept = place(context.work, fingerprint([graph], calibration, [block]), SENSITIVITY)
        if kept.exists():
            return read_sensitivity(kept)
    found = sensitivity(
        graph, calibration, block=block, work=context.work, progress=context.progress
    )
    if kept:
        with replacing(kept) as fresh:
            fresh.write_text(found.to_json(), encoding="utf-8")
    return found
