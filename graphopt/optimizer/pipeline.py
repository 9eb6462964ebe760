"""Pipelines: passes run in an order on a copy of a network, and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import onnx_graphsurgeon as gs

from graphopt.analysis.compare import PoseChange, compare
from graphopt.analysis.cost import Cost, cost_of
from graphopt.analysis.latency.predict import network_ms
from graphopt.errors import CheckFailed, InputError
from graphopt.fitting.checkpoint import LAST_GOOD
from graphopt.ir.network import Network
from graphopt.ir.onnx_io import save_model, serialised
from graphopt.ir.qoperators import has_qoperators
from graphopt.optimizer.attempt import Attempt, attempt
from graphopt.optimizer.bisect import Judgement, bisect
from graphopt.optimizer.options import OnFail, VerifyMode
from graphopt.optimizer.outcome import PassStep, PipelineResult
from graphopt.optimizer.pass_contract import AnyPass, Context, Numerics, Outcome, Skip, loosest
from graphopt.optimizer.verify import APPROXIMATE_LIMIT, Verifier
from graphopt.runtime.differences import output_error
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.sample_inputs import example_shapes, example_shapes_if_any

AfterPass: TypeAlias = Callable[[int, str, Network], None]
"""What is called after a pass, see `run_pipeline`."""


def run_pipeline(
    graph: gs.Graph,
    passes: Sequence[AnyPass],
    *,
    context: Context | None = None,
    verify: VerifyMode = "each",
    on_fail: OnFail = "stop",
    max_shift: float | None = None,
    must_pay: int = 0,
    progress: Callable[[str], None] = lambda _: None,
    after_pass: AfterPass = lambda _number, _name, _graph: None,
) -> PipelineResult:
    """Run passes in order on a copy of a graph.

    Args:
        graph: the network; it is not changed.
        passes: what to run.
        context: what passes may know beside the graph; `original` is `graph` where it has none.
        verify: check the result after each pass, once at the end, or never.
        on_fail: what a failed check does: stop everything, take the pass back, take back only those
            of its changes that are to blame and go on (`bisect`; it takes a check for each half of
            the changes, and so on), or go on with everything. A pass that crashes, or whose result
            cannot be run or is not finite, is taken back in any case; so is one of the first
            `must_pay` that moves outputs too far to be an approximation.
        max_shift: how far key points may move in the mean, in pixels of the network's input, on the
            calibration's held-out images. A pass that moves them further fails its check; where a
            later pass repairs (`reconstruct`), that one is judged, and both are taken back.
        must_pay: of the first so many passes, those are left out that make the network slower on
            the context's device, and those that cost accuracy and do not make it faster.
        progress: called with each pass's name before it runs, and with what long ones do.
        after_pass: called with the number of each pass, from 1, its name, and the network that the
            next one gets, which it must not change.

    Raises:
        CheckFailed: (`on_fail="stop"`) naming the pass and the first tensor that departs.
        InputError: when the network cannot be run for its verification.
    """
    network, known = Network.of(graph), context or Context()
    run = _Run(network, passes, known, verify, on_fail, max_shift, must_pay, progress)
    result = run.all(after_pass)
    if result is None:
        # Only a check after each pass can tell which one it was. The checks are made up for; passes
        # run again only behind one that is taken back, where they are given another network.
        made, each = run.attempts, (max_shift, must_pay, progress)
        run = _Run(network, passes, known, "each", on_fail, *each, made)
        result = run.all(after_pass)
        assert result is not None
    return result


JUDGED = 40
"""Held-out images at most that poses are compared on after a pass."""
JUDGED_QUICKLY = 10
"""The same where nobody looks for poses."""


class _Run:
    """A pipeline at work; the arguments are those of `run_pipeline`, and what passes made before.

    Args:
        made: the attempts of a run of the same passes on the same network, in order.
    """

    def __init__(
        self,
        graph: Network,
        passes: Sequence[AnyPass],
        context: Context,
        verify: VerifyMode,
        on_fail: OnFail,
        max_shift: float | None,
        must_pay: int,
        progress: Callable[[str], None],
        made: Sequence[Attempt] = (),
    ) -> None:
        self._passes, self._verify, self._on_fail = passes, verify, on_fail
        self._max_shift, self._must_pay, self._progress = max_shift, must_pay, progress
        known = example_shapes_if_any if verify == "off" else example_shapes
        self._shapes = dict(graph.header.sizes) or known(graph)
        self._verifier = None if verify == "off" else Verifier(graph, self._shapes)
        self._context = replace(
            context, original=context.original or graph.copy(), progress=progress
        )
        self._made = made
        self._current = self._approved = made[0].given if made else graph.copy()
        self.attempts: list[Attempt] = []
        """One for each pass so far, where the check comes at the end."""
        self._steps: list[PassStep] = []
        self._found: Judgement | None = None
        """Found of the current graph, where each is judged and no pass was just taken back."""
        if verify == "each":
            self._found = Judgement(0.0, None, None)
        self._waiting = 0
        """How many of the last steps are not in `approved`, since a later pass repairs them."""

    def all(self, after_pass: AfterPass) -> PipelineResult | None:
        """Run every pass; None where a check at the end failed, and which pass failed matters."""
        before, ms_before = self._cost(), self._ms(self._current)
        self._keep(self._current)
        for index, chosen in enumerate(self._passes):
            self._progress(chosen.name)
            if not self._step(index, chosen):
                return None
            after_pass(index + 1, chosen.name, self._current)
        return PipelineResult(
            graph=self._current,
            steps=tuple(self._steps),
            before=before,
            after=self._cost(),
            ms_before=ms_before,
            ms_after=self._ms(self._current),
            input_shapes=self._shapes,
        )

    def _step(self, index: int, chosen: AnyPass) -> bool:
        """Run and judge one pass."""
        saved, made = self._current, self._attempt(index, chosen)
        graph, outcome, crash = made.graph, made.outcome, made.crash
        slower = self._refusal(index, chosen, made) if outcome.changes else None
        if slower:
            graph, outcome = saved, Outcome((), (*outcome.skips, Skip("(all)", slower)))
        if self._verify == "end" and not outcome.changes:
            graph = saved  # as below, so that both runs give the next pass the same network
        found = Judgement(None, None, crash)
        numerics = made.numerics
        judged_now = self._verify == "each" or index == len(self._passes) - 1
        judged_later = self._max_shift is not None and self._waiting > 0
        if self._found and not (outcome.changes or slower or crash or judged_later):
            graph, found = saved, self._found  # whatever it did without saying so is dropped
        elif judged_now and not (crash or slower):
            graph, outcome, found = self._judged(index, chosen, made, graph)
            if found.failure and self._verify == "end":
                return False
        # What a preset chose must not stop it: it is taken back where it costs too much.
        optional = found.over_budget and self._max_shift is None and index < self._must_pay
        if found.failure and self._on_fail == "stop" and not optional:
            hint = _HINTS[found.over_budget and self._max_shift is None]
            raise CheckFailed(found.failure, pass_name=str(chosen), hint=hint)
        overruled = self._on_fail == "warn" and found.difference not in (float("inf"), None)
        reverted = crash is not None or (found.failure is not None and not overruled)
        if reverted:
            graph = self._approved if found.over_budget else saved
            outcome = Outcome((), outcome.skips)
            if self._verifier and numerics is not Numerics.EXACT:
                self._verifier.rebase(graph)
        self._current = graph
        if self._verify == "each":
            self._found = None if reverted or found.failure else found
        if reverted and found.over_budget:
            self._take_back_what_waits(chosen)
        if self._repaired_later(index):
            self._waiting += 1
        else:
            self._waiting, self._approved = 0, graph
            self._keep(graph)
        self._steps.append(
            PassStep(
                name=str(chosen),
                numerics=numerics,
                changes=outcome.changes,
                skips=outcome.skips,
                max_abs_diff=found.difference,
                seconds=made.seconds,
                cost=self._cost(),
                ms=self._ms(graph),
                poses=found.poses,
                failure=found.failure,
                reverted=reverted,
                remark=found.remark
                or (self._untrained(index, numerics) if outcome.changes else ""),
            )
        )
        return True

    def _judged(
        self, index: int, chosen: AnyPass, made: Attempt, graph: Network
    ) -> tuple[Network, Outcome, Judgement]:
        """A pass's graph, judged; where its changes are bisected, what is left of them."""
        held_to = made.numerics
        if self._verify == "end":
            held_to = loosest([held_to, *(step.numerics for step in self._steps)])
        judge = partial(self._judge, chosen, held_to, budget=not self._repaired_later(index))
        found = judge(graph)
        bisected = self._verify == "each" and self._on_fail == "bisect" and not chosen.repeat
        if found.failure and bisected:
            return bisect(chosen, made.facts, self._current, made.outcome, judge, found)
        return graph, made.outcome, found

    def _untrained(self, index: int, numerics: Numerics) -> str:
        """What to say of a pass that needs training, where none follows."""
        if numerics is not Numerics.RETRAIN or any(p.repairs for p in self._passes[index + 1 :]):
            return ""
        return "the network is another one now, and needs training: let `distill` follow"

    def _attempt(self, index: int, chosen: AnyPass) -> Attempt:
        """Run a pass, or take what it made of the very same network before."""
        if index < len(self._made) and self._made[index].given is self._current:
            return self._made[index]
        made = attempt(chosen, self._current, self._context)
        if self._verify == "end":
            self.attempts.append(made)
        return made

    def _keep(self, graph: Network) -> None:
        """Leave a good network behind, should the run be interrupted."""
        if self._context.work:
            save_model(graph, self._context.work / LAST_GOOD)

    def _repaired_later(self, index: int) -> bool:
        return self._verify == "each" and any(p.repairs for p in self._passes[index + 1 :])

    def _refusal(self, index: int, chosen: AnyPass, made: Attempt) -> str | None:
        """Why the device is better off without a pass that has to pay; None if it is not."""
        device = self._context.device
        before, after = self._ms(self._current), self._ms(made.graph)
        if device is None or index >= self._must_pay or before is None or after is None:
            return None
        if has_qoperators(self._current):
            return None  # what those take is not known
        lossy = made.numerics is not Numerics.EXACT and not chosen.repairs
        change = f"{before:.2f} to {after:.2f} ms"
        if after > before * (1 + _NOISE):
            return f"it would be slower on {device.name}, {change} as predicted"
        if lossy and after >= before * (1 - _NOISE):
            return f"it costs accuracy and would save no time on {device.name}, {change}"
        return None

    def _judge(
        self, chosen: AnyPass, numerics: Numerics, graph: Network, *, budget: bool
    ) -> Judgement:
        """Check a graph; `budget`: its poses must be within the budget too."""
        if self._verifier is None:
            return Judgement(None, None, None)
        verdict = self._verifier.check(graph, numerics)
        if verdict.failure or numerics is Numerics.EXACT:
            return Judgement(verdict.difference, None, verdict.failure, remark=verdict.remark)
        limit = self._max_shift
        calibration = self._context.calibration
        if limit is None and calibration is not None and calibration.made_up:
            # There is nobody in such images, but their outputs count.
            failure = self._too_far(graph, verdict.difference, None) if budget else None
            if failure and numerics is Numerics.APPROXIMATE:
                return Judgement(verdict.difference, None, failure, over_budget=True)
            return Judgement(verdict.difference, None, None)
        self._progress(f"{chosen.name}: the poses")
        poses = _compared(graph, self._context)
        if not (budget and poses and limit is not None and poses.mean_shift > limit):
            failure = self._too_far(graph, verdict.difference, poses) if budget else None
            if failure and numerics is Numerics.APPROXIMATE:
                return Judgement(verdict.difference, poses, failure, over_budget=True)
            return Judgement(verdict.difference, poses, None)
        failure = f"{poses} (allowed: {limit:g} pixels)"
        return Judgement(verdict.difference, poses, failure, over_budget=True)

    def _too_far(self, graph: Network, moved: float | None, poses: PoseChange | None) -> str | None:
        """Why outputs are no approximation any more, in images or else in noise."""
        images, original = self._context.calibration, self._context.original
        if images is not None and original is not None:
            feeds = images.feeds(images.held_out[:JUDGED_QUICKLY])
            error = poses.error if poses else output_error(graph, original, feeds)
            if error > APPROXIMATE_LIMIT:
                return (
                    f"outputs err by {error:.2g} of their deviation on held-out images: a constant "
                    "would err by 1"
                )
        elif moved is not None and moved > APPROXIMATE_LIMIT:
            return f"an approximate pass moved outputs by {moved:.2g} times their range"
        return None

    def _take_back_what_waits(self, judged: AnyPass) -> None:
        """Steps that a later pass was to repair, and did not within the budget."""
        first = len(self._steps) - self._waiting
        self._steps[first:] = [
            replace(
                step,
                changes=(),
                cost=self._cost(),
                ms=self._ms(self._current),
                failure=step.failure or f"{judged.name} could not make up for it",
                reverted=True,
            )
            for step in self._steps[first:]
        ]

    def _cost(self) -> Cost:
        return cost_of(self._current, self._shapes)

    def _ms(self, graph: Network) -> float | None:
        if self._context.device is None:
            return None
        try:
            return network_ms(graph, self._context.device)
        except InputError:
            return None


_HINTS = {
    False: "leave it out with --skip-passes, or go on with --on-fail bisect or revert",
    True: "let `reconstruct` follow, with photos (--calib); choose milder options; or accept it "
    "with --on-fail warn",
}
"""What to do about a failed check: whether outputs moved too far for an approximation."""
_NOISE = 1e-6
"""Differences of predicted times that are rounding."""


def _compared(graph: Network, context: Context) -> PoseChange | None:
    """What became of the poses in held-out images; None where there are no images."""
    if context.calibration is None or context.original is None:
        return None
    with serialised(context.original) as model, serialised(graph) as other:
        before, after = OnnxRuntimeEngine(model), OnnxRuntimeEngine(other)
    calibration = context.calibration
    feeds = calibration.feeds(calibration.held_out[:JUDGED])
    return compare(before, after, calibration.spec, feeds)
