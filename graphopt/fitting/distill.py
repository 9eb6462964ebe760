"""Label-free fine-tuning of a changed network against the original (knowledge distillation).

The original network says what the maps of random crops of unlabelled photos should be; the changed
one is trained to give the same (Hinton et al., "Distilling the Knowledge in a Neural Network",
2015; for regression maps, the squared error). Needs the extra `[distill]`.

Where bfloat16 is multiplied fast, everything between a network's inputs and outputs is computed in
it; weights, sums, steps and the judgement on held-out crops stay in float32.

Every weight has a learning rate of its own, so that one step changes a layer's output by about the
same share of its deviation: rate * std(output) / (rms(input) * sqrt(K)) for K products in a sum.
Steps are taken in coordinates where a layer's inputs are independent (`graphopt.fitting.whitening`)
and have one size for each filter (`graphopt.fitting.row_momentum`); what is judged and kept is the
mean of the weights over the last steps (Polyak and Juditsky, 1992). What was tried beside this, and
what came of it, is in docs/recovery.md.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import InputError, Unsupported
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.checkpoint import TENSORS, TRAINING, Checkpoint, fingerprint, place
from graphopt.fitting.distill_objective import channel_weights
from graphopt.fitting.distill_options import DistillOptions, DistillReport
from graphopt.fitting.distillation_data import DistillationBatch, DistillationData

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graphopt.fitting.processes import Processes
    from graphopt.fitting.torchnet import TorchNet

HELD_OUT_CROPS = 32
"""Crops that training is judged by."""
LOOKED_AT = 6
"""Batches that tell how a layer's inputs hang together."""


def distill(
    graph: gs.Graph,
    original: gs.Graph,
    calibration: Calibration,
    options: DistillOptions | None = None,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[gs.Graph, DistillReport]:
    """Train a copy of `graph` to give the original's outputs.

    Args:
        graph: the changed network; its outputs have the original's names. It is not changed.
        original: the teacher.
        calibration: the photos; its held-out ones are never trained on.
        options: see `DistillOptions`.
        checkpoint: a file to keep the state of training in, or a folder for it; training goes on
            from it if it exists, also to more steps than were asked for at first.
        progress: told at which step of how many training is.

    Returns:
        The network with the weights that were best on held-out crops, and what happened.

    Raises:
        Unsupported: PyTorch is not installed, or an operator cannot be trained through.
        InputError: the checkpoint is of another network, other photos or other options, or cannot
            be read or written.
    """
    try:
        import torch

        from graphopt.fitting.processes import joined
        from graphopt.fitting.teacher import Teacher
        from graphopt.fitting.torchnet import TorchNet
    except ImportError:
        raise Unsupported(
            "distillation needs PyTorch", hint="pip install 'graphopt[distill]'"
        ) from None
    chosen = options or DistillOptions()
    torch.manual_seed(chosen.seed)
    with joined(chosen.device, batch=chosen.batch) as processes, _memory_kept():
        student, kept = TorchNet(graph.copy()), None
        if checkpoint is not None:
            fixed = (chosen.batch, chosen.crop, chosen.rate, chosen.seed, chosen.bfloat16)
            owner = fingerprint((graph, original), calibration, (*fixed, chosen.averaging))
            kept = Checkpoint(place(checkpoint, owner, TRAINING), owner, TENSORS)
        teacher = Teacher(original)
        data = DistillationData(
            teacher,
            calibration,
            chosen.batch,
            chosen.crop,
            chosen.seed,
            chosen.bfloat16,
            (processes.rank, processes.count),
        )
        trainer = _Trainer(student, data, chosen, processes, progress)
        teacher.to(processes.device)
        report = trainer.run(kept)
    student.cpu().write_back()
    return student.graph, report


@contextmanager
def _memory_kept() -> Iterator[None]:
    """What is freed is not given back to the system meanwhile, where the C library is glibc.

    Each step asks for the same hundreds of megabytes; having them mapped anew, page by page, takes
    a third of its time.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        yield
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    set_option(trim_threshold, 2**31 - 1)
    set_option(mmap_max, 0)
    try:
        yield
    finally:  # glibc's defaults
        set_option(trim_threshold, 128 * 1024)
        set_option(mmap_max, 65536)


class _Trainer:
    """What a student needs to be trained; it is prepared on the CPU, and then moved."""

    def __init__(
        self,
        student: TorchNet,
        data: DistillationData,
        options: DistillOptions,
        processes: Processes,
        progress: Callable[[str], None],
    ) -> None:
        import torch

        from graphopt.fitting.row_momentum import RowMomentum
        from graphopt.fitting.whitening import whiten

        self._student, self._data, self._processes = student, data, processes
        self._input = data.calibration.input
        self._options, self._progress = options, progress
        self._held_out = data.held_out(HELD_OUT_CROPS)
        targets = {
            name: np.concatenate([lesson.targets[name] for lesson in self._held_out])
            for name in self._held_out[0].targets
        }
        importance = data.calibration.spec.importance({n: v.shape[1] for n, v in targets.items()})
        device = processes.device
        self._weights = {
            name: torch.from_numpy(channel_weights(values, importance[name])).to(device)
            for name, values in targets.items()
        }
        rates = processes.agreed(self._rates())
        if not rates:
            raise InputError("there is nothing to train: no layer has constant weights")
        looked_at = (self._feeds(data[i]) for i in range(LOOKED_AT))
        self._whitened = [part.to(device) for part in whiten(student, looked_at)]
        for part in self._whitened:
            processes.align(part.basis)
        student.to(device)
        self._learner = processes.spread(student)
        self._average = {key: v.detach().clone() for key, v in student.values.items()}
        groups = [([part.moved], rates[part.key].whitened) for part in self._whitened]
        done = {part.key for part in self._whitened}
        groups += [([student.values[key]], r.plain) for key, r in rates.items() if key not in done]
        self._optimiser = RowMomentum(
            {"params": parameters, "lr": rate, "own": rate} for parameters, rate in groups
        )

    def run(self, kept: Checkpoint | None) -> DistillReport:
        """Train; the student is left with its best weights."""
        options, started = self._options, time.perf_counter()
        state = self._begin(kept if self._processes.rank == 0 else None)
        error = state.best
        while state.step < options.steps and state.waited < options.patience:
            self._train(state)
            if state.step % options.check_every == 0 or state.step == options.steps:
                error = self._look(state)
                if kept and self._processes.rank == 0:
                    state.weights, state.average = self._copy(), _copied(self._average)
                    state.optimiser = self._optimiser.state_dict()
                    kept.save(vars(state))
            self._progress(
                f"distill: {state.step} of {options.steps} "
                f"(error {error:.4f}, best {state.best:.4f}, at first {state.first:.4f})"
            )
        self._student.values.load_state_dict(state.best_weights)
        return DistillReport(
            state.first,
            state.best,
            state.step,
            time.perf_counter() - started,
            stopped_early=state.step < options.steps,
        )

    def _begin(self, kept: Checkpoint | None) -> _State:
        """The state to go on from; every process gets the first one's."""
        loaded = kept.load(lambda entries: _State(**entries)) if kept else None
        if state := self._processes.agreed(loaded):
            self._student.values.load_state_dict(state.weights)
            self._optimiser.load_state_dict(state.optimiser)
            for key, was in self._average.items():
                was.copy_(state.average[key])
            return state
        error = self._error()
        return _State(first=error, best=error, best_weights=self._copy())

    def _look(self, state: _State) -> float:
        """The error of the averaged weights on held-out crops; they are kept if they are best."""
        own = self._copy()
        self._student.values.load_state_dict(self._average)
        error, averaged = self._error(), self._copy()
        self._student.values.load_state_dict(own)
        # What a high rate brings shows in the error only when the rate has fallen.
        state.waited += state.step > self._options.steps / 2
        if error < state.best:
            state.best, state.best_weights, state.waited = error, averaged, 0
        return error

    # Steps

    def _train(self, state: _State) -> None:
        options, values = self._options, self._student.values
        rise = min(1.0, (state.step + 1) / options.warm_up)
        fall = min(1.0, 2 * (1 - state.step / options.steps))
        for group in self._optimiser.param_groups:
            group["lr"] = group["own"] * rise * fall
        self._student.zero_grad()
        lesson = self._data[state.step]
        self._loss(self._learner, lesson, bfloat16=options.bfloat16).backward()
        for part in self._whitened:
            part.gather(values)
        self._optimiser.step()
        for part in self._whitened:
            part.scatter(values)
        self._student.keep_masks()
        state.step += 1
        # At first, the average is over all steps so far.
        stays = min(options.averaging, state.step / (state.step + 9))
        for key, was in self._average.items():
            was.lerp_(values[key].detach(), 1 - stays)

    def _loss(self, net: nn.Module, lesson: DistillationBatch, *, bfloat16: bool = False) -> Any:
        import torch

        outputs = net(self._feeds(lesson), bfloat16=bfloat16)
        return sum(
            (self._weights[n] * (outputs[n] - torch.from_numpy(target).to(outputs[n])) ** 2).mean()
            for n, target in lesson.targets.items()
        )

    def _error(self) -> float:
        """The mean over held-out crops; each process looks at its share."""
        import torch

        which, processes = self._processes.rank, self._processes.count
        with torch.no_grad():
            losses = [self._loss(self._student, x) for x in self._held_out[which::processes]]
        return self._processes.total(float(sum(losses))) / len(self._held_out)

    def _feeds(self, lesson: DistillationBatch) -> dict[str, Tensor]:
        return {self._input: self._student.placed(lesson.x)}

    def _rates(self) -> dict[str, _Rate]:
        """The learning rates of every parameter by its key, from the held-out crops."""
        import torch

        from graphopt.fitting.torchnet import LAYERS

        seen: dict[str, list[_Rate]] = {}
        names = self._student.parameter_names

        def watch(node: gs.Node, inputs: Sequence[Tensor | None], result: Tensor) -> None:
            if len(inputs) < 2 or inputs[0] is None or inputs[1] is None:
                return
            step = self._options.rate * float(result.std())
            keys = [names.get(tensor.name) for tensor in node.inputs[1:3]]
            if keys[0] is not None:
                products = inputs[1][0].numel() if node.op in LAYERS else 1
                one = step / math.sqrt(products)
                strength = float(inputs[0].square().mean().sqrt())
                plain = step if node.op == "Add" else one / (strength + 1e-12)
                seen.setdefault(keys[0], []).append(_Rate(plain, one))
            if len(keys) > 1 and keys[1] is not None:
                seen.setdefault(keys[1], []).append(_Rate(step, step))

        with torch.no_grad():
            for lesson in self._held_out:
                self._student(self._feeds(lesson), watch)
        in_order = sorted(seen.items(), key=lambda item: int(item[0]))
        return {key: _Rate(*np.mean(found, axis=0).tolist()) for key, found in in_order}

    def _copy(self) -> dict[str, Tensor]:
        return _copied(self._student.values)


def _copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in values.items()}


class _Rate(NamedTuple):
    plain: float
    """Learning rate of the weights themselves."""
    whitened: float
    """Learning rate in coordinates in which inputs have strength 1."""


@dataclass
class _State:
    """Training between two steps."""

    first: float
    """The error before the first step."""
    best: float
    """The least error since, with its weights."""
    best_weights: dict[str, Tensor]
    step: int = 0
    waited: int = 0
    """Looks since the best one."""
    average: dict[str, Tensor] = field(default_factory=dict)
    """The mean of the weights over the last steps (Polyak and Juditsky, 1992)."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
