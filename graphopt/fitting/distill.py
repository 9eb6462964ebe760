"""Label-free fine-tuning of a changed network against the original (knowledge distillation).

The original network, run by onnxruntime, says what the maps of random crops of unlabelled photos
should be; the changed one is trained to give the same (Hinton et al., "Distilling the Knowledge in
a Neural Network", 2015; for regression maps, the squared error). Needs the extra `[distill]`.

On CPUs that multiply bfloat16 the student's dense layers do so while it is trained, which nearly
halves a step; weights, sums, Adam and the judgement on held-out crops stay in float32.

Every weight has a learning rate of its own, so that one step changes a layer's output by about the
same share of its deviation: rate * std(output) / (rms(input) * sqrt(K)) for K products in a sum.
Weights that were fitted by least squares are wrecked by Adam at its usual rates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from PIL import Image, ImageOps

from graphopt.engine import OnnxRuntimeEngine
from graphopt.errors import InputError, Unsupported
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.checkpoint import TRAINING, fingerprint, foreign, place, unreadable
from graphopt.model import copy_model, replacing, serialised
from graphopt.pose.preprocess import prepare
from graphopt.runtime import cpu_features

if TYPE_CHECKING:
    from torch import Tensor

    from graphopt.fitting.torchnet import TorchNet

Floats = NDArray[np.float32]
Precision = Literal["auto", "float32", "bfloat16"]
"""What dense layers multiply while they are trained; auto is bfloat16 where the CPU has it."""
BFLOAT16_FEATURES = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class DistillOptions:
    """How long and how carefully to train.

    Args:
        steps: batches to train on.
        batch: crops in a batch.
        crop: height and width of a crop, where the network takes any size.
        rate: the learning rate before each layer's own scale, see the module's text.
        warm_up: steps over which the rate rises from zero.
        check_every: steps between two looks at the held-out crops.
        patience: looks without improvement after which training stops, in its second half.
        seed: of crops and batches.
        precision: see `Precision`.
    """

    steps: int = 600
    batch: int = 8
    crop: int = 224
    rate: float = 7e-4
    warm_up: int = 60
    check_every: int = 50
    patience: int = 6
    seed: int = 0
    precision: Precision = "auto"

    @property
    def bfloat16(self) -> bool:
        """Whether dense layers multiply bfloat16 on this CPU."""
        native = bool(cpu_features() & BFLOAT16_FEATURES)
        return self.precision == "bfloat16" or (self.precision == "auto" and native)


@dataclass(frozen=True)
class DistillReport:
    """What came of training.

    Errors are mean squared differences from the original's outputs on held-out crops, each output
    relative to its variance.
    """

    before: float
    after: float
    steps: int
    seconds: float
    stopped_early: bool


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
    student = TorchNet(copy_model(graph))
    kept = None
    if checkpoint is not None:
        fixed = (chosen.batch, chosen.crop, chosen.rate, chosen.seed, chosen.bfloat16)
        owner = fingerprint((graph, original), calibration, fixed)
        kept = _Kept(place(checkpoint, owner, TRAINING), owner)
    with serialised(original) as model:
        trainer = _Trainer(student, OnnxRuntimeEngine(model), calibration, chosen, progress)
        report = trainer.run(kept)
    student.write_back()
    return student.graph, report


class _Trainer:
    def __init__(
        self,
        student: TorchNet,
        teacher: OnnxRuntimeEngine,
        calibration: Calibration,
        options: DistillOptions,
        progress: Callable[[str], None],
    ) -> None:
        import torch

        self._student, self._teacher = student, teacher
        self._calibration, self._options, self._progress = calibration, options, progress
        rng = np.random.default_rng(options.seed + 1)
        self._held_out = [
            self._lesson([self._crop(image, rng)]) for image in calibration.held_out[:32]
        ]
        targets = [lesson[1] for lesson in self._held_out]
        self._variance = {
            name: float(torch.cat([t[name].flatten() for t in targets]).var()) + 1e-12
            for name in targets[0]
        }
        rates = self._rates(self._held_out[0][0])
        if not rates:
            raise InputError("there is nothing to train: no layer has constant weights")
        self._optimiser = torch.optim.Adam(
            [{"params": [student.values[key]], "lr": rate, "own": rate} for key, rate in rates],
            betas=(0.9, 0.999),
        )

    def run(self, kept: _Kept | None) -> DistillReport:
        """Train; the student is left with its best weights."""
        options, started = self._options, time.perf_counter()
        state = kept.load() if kept else None
        if state is None:
            error = self._error()
            state = _State(first=error, best=error, best_weights=self._weights())
        else:
            self._student.values.load_state_dict(state.weights)
            self._optimiser.load_state_dict(state.optimiser)
        error = state.best
        lessons = self._lessons(state.step)
        while state.step < options.steps and state.waited < options.patience:
            self._train(next(lessons), state.step)
            state.step += 1
            if state.step % options.check_every == 0 or state.step == options.steps:
                error = self._error()
                # What a high rate brings shows in the error only when the rate has fallen.
                state.waited += state.step > options.steps / 2
                if error < state.best:
                    state.best, state.best_weights, state.waited = error, self._weights(), 0
                if kept:
                    state.weights = self._weights()
                    state.optimiser = self._optimiser.state_dict()
                    kept.save(state)
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

    def _train(self, lesson: tuple[Tensor, dict[str, Tensor]], step: int) -> None:
        options = self._options
        rise = min(1.0, (step + 1) / options.warm_up)
        fall = 0.5 * (1 + math.cos(math.pi * step / options.steps))
        for group in self._optimiser.param_groups:
            group["lr"] = group["own"] * rise * fall
        self._optimiser.zero_grad()
        self._loss(*lesson, bfloat16=options.bfloat16).backward()
        self._optimiser.step()
        self._student.keep_masks()

    def _loss(self, x: Tensor, targets: dict[str, Tensor], *, bfloat16: bool = False) -> Any:
        outputs = self._student({self._calibration.input: x}, bfloat16=bfloat16)
        return sum(
            ((outputs[name] - target) ** 2).mean() / self._variance[name]
            for name, target in targets.items()
        ) / len(targets)

    def _error(self) -> float:
        import torch

        with torch.no_grad():
            return float(np.mean([float(self._loss(*lesson)) for lesson in self._held_out]))

    def _rates(self, x: Tensor) -> list[tuple[str, float]]:
        """The learning rate of every parameter, from one forward run."""
        import torch

        from graphopt.fitting.torchnet import LAYERS

        rates: dict[str, float] = {}
        names = self._student.parameter_names

        def watch(node: gs.Node, inputs: Sequence[Tensor | None], result: Tensor) -> None:
            if len(inputs) < 2 or inputs[0] is None or inputs[1] is None:
                return
            step = self._options.rate * float(result.std())
            keys = [names.get(tensor.name) for tensor in node.inputs[1:3]]
            if keys[0] is not None:
                products = inputs[1][0].numel() if node.op in LAYERS else 1
                strength = float(inputs[0].square().mean().sqrt()) * math.sqrt(products)
                rates[keys[0]] = step if node.op == "Add" else step / (strength + 1e-12)
            if len(keys) > 1 and keys[1] is not None:
                rates[keys[1]] = step

        with torch.no_grad():
            self._student({self._calibration.input: x}, watch)
        return sorted(rates.items(), key=lambda item: int(item[0]))

    # Lessons

    def _lessons(self, done: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Batches without end; the same ones for the same seed, also after a restart."""
        while True:
            rng = np.random.default_rng((self._options.seed, done))
            images = rng.choice(len(self._calibration.fitting), self._options.batch)
            yield self._lesson([self._crop(self._calibration.fitting[i], rng) for i in images])
            done += 1

    def _lesson(self, crops: list[Floats]) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        name = self._calibration.input
        answers = [self._teacher.run({name: crop}) for crop in crops]
        targets = {
            output: torch.from_numpy(np.concatenate([a[output] for a in answers]))
            for output in answers[0]
        }
        x = torch.from_numpy(np.concatenate(crops))
        return x.contiguous(memory_format=torch.channels_last), targets

    def _crop(self, image: Path | int, rng: np.random.Generator) -> Floats:
        """A random part of a photo at a random scale, perhaps mirrored, as an input [1,3,H,W]."""
        photo = self._calibration.picture(image)
        preprocess, shape = self._calibration.spec.preprocess, self._calibration.shape
        if rng.random() < 0.5:
            photo = ImageOps.mirror(photo)
        if None not in shape:
            return prepare(photo, preprocess, shape)[0]
        side = math.ceil(self._options.crop / preprocess.multiple) * preprocess.multiple
        # People should be as large as they are at the network's usual height, within a third.
        scale = preprocess.height * rng.uniform(0.75, 1.33) / photo.height
        scale = max(scale, side / min(photo.size))
        size = (max(side, round(photo.width * scale)), max(side, round(photo.height * scale)))
        photo = photo.resize(size, Image.Resampling.BICUBIC)
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in size)
        return prepare(photo.crop((left, top, left + side, top + side)), preprocess, (side, side))[
            0
        ]

    def _weights(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self._student.values.state_dict().items()}


@dataclass
class _State:
    """Training between two steps."""

    first: float
    """The error before the first step …"""
    best: float
    """… and the least one since, with its weights."""
    best_weights: dict[str, Tensor]
    step: int = 0
    waited: int = 0
    """Looks since the best one."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)


class _Kept:
    """A state in a file that appears whole.

    Args:
        path: the file.
        owner: digest of the run that it must belong to.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self._path, self._owner = path, owner

    def load(self) -> _State | None:
        """What the file holds; nothing if there is none yet.

        Raises:
            InputError: the file cannot be read, or is of another run.
        """
        import torch

        if not self._path.exists():
            return None
        try:
            saved = torch.load(self._path, weights_only=True)
            owner, state = saved["owner"], _State(**saved["state"])
        except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError, TypeError):
            raise unreadable(self._path) from None
        if owner != self._owner:
            raise foreign(self._path)
        return state

    def save(self, state: _State) -> None:
        """Write the file."""
        import torch

        with replacing(self._path) as fresh:
            torch.save({"owner": self._owner, "state": vars(state)}, fresh)
