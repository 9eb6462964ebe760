"""What became of a pipeline, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainSerializer

from graphopt.analysis.compare import PoseChange
from graphopt.analysis.cost import Cost
from graphopt.ir.network import Network
from graphopt.ir.records import HIDDEN, Record
from graphopt.optimizer.pass_contract import Change, Numerics, Skip


@dataclass(frozen=True)
class PassStep(Record):
    """One pass of a run. Its JSON form has the number of `changes`, and ends with `poses`."""

    name: str
    """The pass with its options, as pipelines write it."""
    changes: Annotated[tuple[Change, ...], PlainSerializer(len, return_type=int)]
    skips: tuple[Skip, ...]
    max_abs_diff: float | None
    """Largest absolute difference of an output to the original network's, divided by that output's
    range; None: not measured. In JSON null, too, when an output is not finite."""
    numerics: Numerics
    seconds: float
    """How long the pass itself took, without its verification."""
    ms: float | None
    """The network's predicted time after it on the context's device; None without one."""
    poses: PoseChange | None
    """What it and all before it did to the poses in held-out images; None if not measured."""
    cost: Annotated[Cost, HIDDEN]
    """What the network costs after the pass."""
    failure: Annotated[str | None, HIDDEN]
    """Why its verification failed (`revert`, `warn`)."""
    reverted: Annotated[bool, HIDDEN]
    remark: Annotated[str, HIDDEN] = ""
    """What allowed a difference beyond the plain limit, or what must follow."""


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline made of a network."""

    graph: Network
    steps: tuple[PassStep, ...]
    before: Cost
    after: Cost
    ms_before: float | None
    """Predicted on the context's device; None without one, or where a shape is not known."""
    ms_after: float | None
    input_shapes: Mapping[str, tuple[int, ...]]
    """The sizes that MACs were counted and outputs compared at."""

    @property
    def kept_failures(self) -> tuple[str, ...]:
        """The checks that failed and were overruled (`on_fail="warn"`), a sentence each."""
        return tuple(f"{s.name}: {s.failure}" for s in self.steps if s.failure and not s.reverted)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What passed only by onnxruntime's noise, or needs training, a sentence each."""
        return tuple(f"{s.name}: {s.remark}" for s in self.steps if s.remark and not s.reverted)
