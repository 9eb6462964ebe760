"""Coordinates for a layer's weights in which training goes straight.

What a convolution sees is strongly correlated: neighbouring pixels and channels say nearly the
same. Along what they have in common the loss is steep, and everywhere else flat, so that steps in
the weights themselves are either too long or too short. Steps in coordinates where the inputs are
independent and equally strong are neither: those of natural gradient methods that keep the
covariance of a layer's input (Martens and Grosse, "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature", 2015). The covariance is taken once, before training: a
network that is repaired stays near where it was.

Needs the extra `[distill]`; import it where training starts, not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as PyTorch's users call it)

from graphopt.fitting.torch_operators import padded_input
from graphopt.fitting.torchnet import TorchNet

LEAST, MOST = 32, 2304
"""Products in a sum for which a layer is whitened; more of them take minutes to decompose."""
POSITIONS_PER_BATCH = 4000
"""Positions of each layer's input that are looked at in a batch, at most."""
RIDGE = 0.1
"""Added to the covariance, times its mean diagonal: directions that are rarely seen stay put."""


@dataclass(frozen=True)
class Whitened:
    """Filters of one layer with the same weights free to move, and their coordinates.

    Args:
        key: the weight's key in `TorchNet.values`.
        rows, columns: which filters, and which of their products.
        basis: from coordinates to weights, [columns, columns].
        moved: the coordinates of the next step; an optimiser's parameter, zero between steps.
    """

    key: str
    rows: Tensor
    columns: Tensor
    basis: Tensor
    moved: nn.Parameter

    def to(self, device: torch.device) -> Whitened:
        """The same there."""
        moved = nn.Parameter(self.moved.detach().to(device))
        rows, columns, basis = (t.to(device) for t in (self.rows, self.columns, self.basis))
        return Whitened(self.key, rows, columns, basis, moved)

    def gather(self, values: Mapping[str, nn.Parameter]) -> None:
        """Turn the weights' gradient into that of the coordinates."""
        gradient = values[self.key].grad
        assert gradient is not None
        flat = gradient.contiguous().flatten(1)
        self.moved.grad = flat[self.rows[:, None], self.columns] @ self.basis

    def scatter(self, values: Mapping[str, nn.Parameter]) -> None:
        """Move the weights by what the coordinates moved."""
        weight = values[self.key]
        with torch.no_grad():
            change = weight.new_zeros(len(self.rows), weight[0].numel())
            change[:, self.columns] = self.moved @ self.basis.t()
            weight[self.rows] += change.reshape(-1, *weight.shape[1:])
            self.moved.zero_()


def whiten(student: TorchNet, batches: Iterable[Mapping[str, Tensor]]) -> list[Whitened]:
    """Coordinates for every convolution without groups whose sums are neither short nor very long.

    Args:
        student: the network as it is before training.
        batches: inputs to take the covariances from.
    """
    grams = _grams(student, batches)
    return [part for key, gram in grams.items() for part in _parts(student, key, gram)]


def _grams(student: TorchNet, batches: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of x x^T over what each layer sees: [K,K] by the weight's key, in the weight's order."""
    sums: dict[str, Tensor] = {}
    rng = torch.Generator().manual_seed(0)

    def watch(node: gs.Node, inputs: Sequence[Tensor | None], _: Tensor) -> None:
        if node.op != "Conv" or node.attrs.get("group", 1) != 1 or len(node.inputs[1].shape) != 4:
            return
        x, weight = inputs[0], inputs[1]
        key = student.parameter_names.get(node.inputs[1].name)
        if x is None or weight is None or key is None:
            return
        if LEAST <= weight[0].numel() <= MOST:
            seen = F.unfold(
                padded_input(node, x, weight),
                tuple(weight.shape[2:]),
                dilation=tuple(node.attrs.get("dilations") or (1, 1)),
                stride=tuple(node.attrs.get("strides") or (1, 1)),
            )
            seen = seen.transpose(1, 2).flatten(0, 1)
            seen = seen[torch.randperm(len(seen), generator=rng)[:POSITIONS_PER_BATCH]]
            sums[key] = sums.get(key, torch.zeros(())) + seen.t() @ seen / len(seen)

    count = 0
    with torch.no_grad():
        for count, batch in enumerate(batches, 1):  # noqa: B007 (its last value is used)
            student(batch, watch)
    return {key: gram.double() / count for key, gram in sums.items()}


def _parts(student: TorchNet, key: str, gram: Tensor) -> Iterator[Whitened]:
    weight, mask = student.values[key], student.masks.get(key)
    free = np.ones(weight.shape) if mask is None else mask.numpy()
    patterns, which = np.unique(free.reshape(len(weight), -1) != 0, axis=0, return_inverse=True)
    ridge = RIDGE * gram.diagonal().mean()
    for index, pattern in enumerate(patterns):
        columns = torch.from_numpy(np.flatnonzero(pattern))
        if not len(columns):
            continue
        rows = torch.from_numpy(np.flatnonzero(which.ravel() == index))
        seen = gram[columns[:, None], columns] + ridge * torch.eye(len(columns))
        strength, directions = torch.linalg.eigh(seen)
        basis = (directions * strength.clamp_min(1e-30).rsqrt()).float()
        yield Whitened(
            key, rows, columns, basis, nn.Parameter(torch.zeros(len(rows), len(columns)))
        )
