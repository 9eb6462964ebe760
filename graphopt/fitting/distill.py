"""Label-free fine-tuning of a changed network against the original (knowledge distillation).

The original network, run by onnxruntime, says what the maps of random crops of unlabelled photos
should be; the changed one is trained to give the same (Hinton et al., "Distilling the Knowledge in
a Neural Network", 2015; for regression maps, the squared error). Needs the extra `[distill]`.

On CPUs that multiply bfloat16 the student's dense layers do so while it is trained, which nearly
halves a step; weights, sums, Adam and the judgement on held-out crops stay in float32.

Every weight has a learning rate of its own, so that one step changes a layer's output by about the
same share of its deviation: rate * std(output) / (rms(input) * sqrt(K)) for K products in a sum.
Weights that were fitted by least squares are wrecked by Adam at its usual rates. Steps are taken in
coordinates where a layer's inputs are independent (see `graphopt.fitting.whitening`): on a
Lightweight OpenPose pruned to 1.8 times fewer multiply-adds, a hundred such steps had lowered the
error by 2%, where a hundred plain ones had raised it by 4%; 400 lowered it by 14%.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.errors import InputError, Unsupported
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.checkpoint import TENSORS, TRAINING, Checkpoint, fingerprint, place
from graphopt.fitting.distill_options import DistillOptions, DistillReport
from graphopt.fitting.distillation_data import DistillationBatch, DistillationData
from graphopt.ir.arrays import Array
from graphopt.ir.onnx_io import serialised
from graphopt.runtime.differences import floored_variance
from graphopt.runtime.engine import OnnxRuntimeEngine

if TYPE_CHECKING:
    from torch import Tensor

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

        from graphopt.fitting.torchnet import TorchNet
    except ImportError:
        raise Unsupported(
            "distillation needs PyTorch", hint="pip install 'graphopt[distill]'"
        ) from None
    chosen = options or DistillOptions()
    torch.manual_seed(chosen.seed)
    student = TorchNet(graph.copy())
    kept = None
    if checkpoint is not None:
        fixed = (chosen.batch, chosen.crop, chosen.pool, chosen.rate, chosen.seed, chosen.bfloat16)
        owner = fingerprint((graph, original), calibration, fixed)
        kept = Checkpoint(place(checkpoint, owner, TRAINING), owner, TENSORS)
    with serialised(original) as model, _memory_kept():
        teacher = OnnxRuntimeEngine(model)
        data = DistillationData(
            teacher, calibration, chosen.batch, chosen.crop, chosen.pool, chosen.seed
        )
        report = _Trainer(student, data, chosen, progress).run(kept)
    student.write_back()
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
    def __init__(
        self,
        student: TorchNet,
        data: DistillationData,
        options: DistillOptions,
        progress: Callable[[str], None],
    ) -> None:
        import torch

        from graphopt.fitting.whitening import whiten

        self._student, self._data = student, data
        self._input = data.calibration.input
        self._options, self._progress = options, progress
        self._held_out = data.held_out(HELD_OUT_CROPS)
        targets = {
            name: np.concatenate([lesson.targets[name] for lesson in self._held_out])
            for name in self._held_out[0].targets
        }
        importance = data.calibration.spec.importance({n: v.shape[1] for n, v in targets.items()})
        self._weights = {
            name: torch.from_numpy(_weights(values, importance[name]))
            for name, values in targets.items()
        }
        rates = self._rates()
        if not rates:
            raise InputError("there is nothing to train: no layer has constant weights")
        self._whitened = whiten(student, (self._feeds(data[i]) for i in range(LOOKED_AT)))
        groups = [([part.moved], rates[part.key].whitened) for part in self._whitened]
        done = {part.key for part in self._whitened}
        groups += [([student.values[key]], r.plain) for key, r in rates.items() if key not in done]
        self._optimiser = torch.optim.Adam(
            [{"params": parameters, "lr": rate, "own": rate} for parameters, rate in groups],
            betas=(0.9, 0.999),
            eps=1e-12,
        )

    def run(self, kept: Checkpoint | None) -> DistillReport:
        """Train; the student is left with its best weights."""
        options, started = self._options, time.perf_counter()
        state = kept.load(lambda entries: _State(**entries)) if kept else None
        if state is None:
            error = self._error()
            state = _State(first=error, best=error, best_weights=self._copy())
        else:
            self._student.values.load_state_dict(state.weights)
            self._optimiser.load_state_dict(state.optimiser)
        error = state.best
        while state.step < options.steps and state.waited < options.patience:
            self._train(state.step)
            state.step += 1
            if state.step % options.check_every == 0 or state.step == options.steps:
                error = self._error()
                # What a high rate brings shows in the error only when the rate has fallen.
                state.waited += state.step > options.steps / 2
                if error < state.best:
                    state.best, state.best_weights, state.waited = error, self._copy(), 0
                if kept:
                    state.weights = self._copy()
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

    # Steps

    def _train(self, step: int) -> None:
        options, values = self._options, self._student.values
        rise = min(1.0, (step + 1) / options.warm_up)
        fall = 0.5 * (1 + math.cos(math.pi * step / options.steps))
        for group in self._optimiser.param_groups:
            group["lr"] = group["own"] * rise * fall
        self._student.zero_grad()
        self._loss(self._data[step], bfloat16=options.bfloat16).backward()
        for part in self._whitened:
            part.gather(values)
        self._optimiser.step()
        for part in self._whitened:
            part.scatter(values)
        self._student.keep_masks()

    def _loss(self, lesson: DistillationBatch, *, bfloat16: bool = False) -> Any:
        import torch

        outputs = self._student(self._feeds(lesson), bfloat16=bfloat16)
        return sum(
            (self._weights[name] * (outputs[name] - torch.from_numpy(target)) ** 2).mean()
            for name, target in lesson.targets.items()
        )

    def _error(self) -> float:
        import torch

        with torch.no_grad():
            return float(np.mean([float(self._loss(lesson)) for lesson in self._held_out]))

    def _feeds(self, lesson: DistillationBatch) -> dict[str, Tensor]:
        import torch

        x = torch.from_numpy(lesson.x)
        return {self._input: x.contiguous(memory_format=torch.channels_last)}

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
        return {k: v.detach().clone() for k, v in self._student.values.state_dict().items()}


def _weights(targets: Array, importance: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a squared error counts, to be broadcast to targets [N,C,H,W]: in the mean over them.

    An error of a channel is relative to its variance; else the background's heat map, with its
    large values, would outweigh those of all parts.

    Args:
        targets: what outputs should be.
        importance: of each channel [C].
    """
    axes = tuple(axis for axis in range(targets.ndim) if axis != 1)
    variance = floored_variance(targets.var(axis=axes, keepdims=True, dtype=np.float64)) + 1e-12
    return np.asarray(importance.reshape(variance.shape) * len(importance) / variance, np.float32)


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
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
