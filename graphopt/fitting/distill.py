"""Label-free fine-tuning of a changed network against the original (knowledge distillation).

The original network, run by onnxruntime, says what the maps of random crops of unlabelled photos
should be; the changed one is trained to give the same (Hinton et al., "Distilling the Knowledge in
a Neural Network", 2015; for regression maps, the squared error). Needs the extra `[distill]`.

Every weight has a learning rate of its own, so that one step changes a layer's output by about the
same share of its deviation: rate * std(output) / (rms(input) * sqrt(K)) for K products in a sum.
Weights that were fitted by least squares are wrecked by Adam at its usual rates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from PIL import Image, ImageOps

from graphopt.engine import OnnxRuntimeEngine
from graphopt.errors import InputError, Unsupported
from graphopt.fitting.calibration import Calibration
from graphopt.model import copy_model, replacing, serialised
from graphopt.pose.preprocess import prepare

if TYPE_CHECKING:
    from torch import Tensor

    from graphopt.fitting.torchnet import TorchNet

Floats = NDArray[np.float32]


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
        patience: looks without improvement after which training stops.
        seed: of crops and batches.
    """

    steps: int = 600
    batch: int = 8
    crop: int = 224
    rate: float = 7e-4
    warm_up: int = 60
    check_every: int = 50
    patience: int = 6
    seed: int = 0


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
        checkpoint: a file to keep the state of training in; training goes on from it if it exists.
        progress: told where training is.

    Returns:
        The network with the weights that were best on held-out crops, and what happened.

    Raises:
        Unsupported: PyTorch is not installed, or an operator cannot be trained through.
        InputError: the checkpoint is of another network.
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
    with serialised(original) as model:
        trainer = _Trainer(student, OnnxRuntimeEngine(model), calibration, chosen, progress)
        report = trainer.run(checkpoint)
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
        self._optimiser = torch.optim.Adam(
            [{"params": [student.values[key]], "lr": rate, "own": rate} for key, rate in rates],
            betas=(0.9, 0.999),
        )

    def run(self, checkpoint: Path | None) -> DistillReport:
        """Train; the student is left with its best weights."""
        import torch

        options, started = self._options, time.perf_counter()
        first = best = self._error()
        best_state, waited, step = self._state(), 0, 0
        if checkpoint is not None and checkpoint.exists():
            saved = torch.load(checkpoint, weights_only=True)
            if saved["shapes"] != [list(v.shape) for v in self._student.values.values()]:
                raise InputError(
                    f"{checkpoint} is the checkpoint of another network", hint="remove it"
                )
            self._student.values.load_state_dict(saved["now"])
            self._optimiser.load_state_dict(saved["optimiser"])
            best, best_state, step, first = (
                saved["best"],
                saved["state"],
                saved["step"],
                saved["first"],
            )
        lessons = self._lessons(step)
        stopped = False
        while step < options.steps and not stopped:
            self._train(next(lessons), step)
            step += 1
            if step % options.check_every == 0 or step == options.steps:
                error = self._error()
                waited = 0 if error < best else waited + 1
                if error < best:
                    best, best_state = error, self._state()
                stopped = waited >= options.patience and step < options.steps
                if checkpoint is not None:
                    self._save(checkpoint, best, best_state, step, first)
                self._progress(
                    f"distilling: step {step} of {options.steps}, error {error:.4f}, "
                    f"best {best:.4f}, at first {first:.4f}"
                )
        self._student.values.load_state_dict(best_state)
        return DistillReport(first, best, step, time.perf_counter() - started, stopped)

    # Steps

    def _train(self, lesson: tuple[Tensor, dict[str, Tensor]], step: int) -> None:
        options = self._options
        rise = min(1.0, (step + 1) / options.warm_up)
        fall = 0.5 * (1 + math.cos(math.pi * step / options.steps))
        for group in self._optimiser.param_groups:
            group["lr"] = group["own"] * rise * fall
        self._optimiser.zero_grad()
        self._loss(*lesson).backward()
        self._optimiser.step()
        self._student.keep_masks()

    def _loss(self, x: Tensor, targets: dict[str, Tensor]) -> Any:
        outputs = self._student({self._calibration.input: x})
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

        rates: dict[str, float] = {}
        layers = self._student.layers()
        names = self._student.parameter_names

        def watch(node: gs.Node, inputs: Sequence[Tensor | None], result: Tensor) -> None:
            if node.outputs[0].name not in layers or inputs[0] is None or inputs[1] is None:
                return
            products = inputs[1][0].numel()
            strength = float(inputs[0].square().mean().sqrt()) * math.sqrt(products)
            deviation = float(result.std())
            rates[names[node.inputs[1].name]] = self._options.rate * deviation / (strength + 1e-12)
            if len(node.inputs) > 2 and node.inputs[2].name in names:
                rates[names[node.inputs[2].name]] = self._options.rate * deviation

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
        return torch.from_numpy(np.concatenate(crops)), targets

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

    # State

    def _state(self) -> dict[str, Any]:
        return {k: v.detach().clone() for k, v in self._student.values.state_dict().items()}

    def _save(
        self, path: Path, best: float, state: dict[str, Any], step: int, first: float
    ) -> None:
        import torch

        values = self._student.values
        with replacing(path) as fresh:
            torch.save(
                {
                    "shapes": [list(v.shape) for v in values.values()],
                    "now": values.state_dict(),
                    "optimiser": self._optimiser.state_dict(),
                    "best": best,
                    "state": state,
                    "step": step,
                    "first": first,
                },
                fresh,
            )
