"""Gradient descent with momentum whose steps have a size that is set for each row of a weight.

Adam divides each weight's gradient by what it usually is. Near a least-squares fit most of it is
noise: directions in which nothing is to be gained are given steps as long as the others, and the
error rises. Here all weights of a row (a filter) are divided by the same number, so that what has
more of a slope moves more. Where a row's inputs are independent and equally strong
(`graphopt.fitting.whitening`) that is the direction of Newton's method.

Needs the extra `[distill]`; import it where training starts, not before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.9
MEMORY = 0.995
"""Of a gradient's mean square, the part that stays after a step."""


class RowMomentum(torch.optim.Optimizer):
    """A step is the rate x the mean gradient / the root of its mean square over the row and time.

    Args:
        groups: as PyTorch's optimisers take them, each with its rate, `lr`. Parameters of one axis
            are one row.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})

    def step(self, closure: None = None) -> None:  # noqa: ARG002
        """Move every parameter by its gradient."""
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    self._move(parameter, parameter.grad, group["lr"])

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float) -> None:
        rows = tuple(range(1, gradient.ndim)) or (0,)
        square = gradient.square().mean(dim=rows, keepdim=True)
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(square)
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - MOMENTUM)
        usual = state["square"].lerp_(square, 1 - MEMORY)
        # Both begin at zero, which the first steps make up for.
        size = (usual / (1 - MEMORY ** state["step"])).sqrt_().add_(1e-20)
        parameter.sub_(mean / size, alpha=rate / (1 - MOMENTUM ** state["step"]))
