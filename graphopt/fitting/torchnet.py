"""A graph as a PyTorch module whose weights can be trained and written back.

Needs the extra `[distill]`; import it where training starts, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphopt.errors import Unsupported
from graphopt.fitting.torch_operators import TORCH_OPERATORS, Inputs, batch_norm
from graphopt.ir.block_structure import trainable_mask
from graphopt.ir.graph import constant_of, is_standard, label
from graphopt.ir.identity import IdentitySet
from graphopt.ir.operators import OPERATORS

LAYERS = tuple(operator.name for operator in OPERATORS.values() if operator.has_bias)
"""Operators whose weights and biases are trained."""
CHANNEL_OPS = ("Mul", "Add")
"""Operators whose second operand is trained where it is a number for each channel: gates' slopes
and offsets, scales of a residual."""


def _channels_last(values: NDArray[np.generic]) -> Tensor:
    """A copy; of four axes, the second one is the innermost in memory."""
    copied = torch.from_numpy(values.copy())
    return copied.contiguous(memory_format=torch.channels_last) if copied.ndim == 4 else copied


def _is_trained(
    node: gs.Node, position: int, values: NDArray[np.generic], inputs: Set[str]
) -> bool:
    """Whether a constant is trained; `inputs`: the graph's, and those once they are normalised.

    How a photo becomes an input stays as it is: pre-processing is read off it.
    """
    if node.op in LAYERS:
        return position in (1, 2)
    channels = values.shape[-2:] == (1, 1) and 1 < values.size == max(values.shape)
    normalises = node.inputs[0].name in inputs
    return node.op in CHANNEL_OPS and position == 1 and channels and not normalises


class TorchNet(nn.Module):
    """A graph as a module: names in, names out.

    Weights and biases of convolutions and matrix products are parameters, and what is added or
    multiplied a channel; in the layout that PyTorch's convolutions are fastest with on CPUs
    (channels last, if the input is so as well). Blocks of a convolution's weight that are zero stay
    so (see `graphopt.ir.block_structure`): a pruned network stays pruned.

    Args:
        graph: the network.
        norms: train BatchNormalization too, as networks are from the start; in training mode it
            uses and collects the statistics of each batch. Otherwise it stays as it is.

    Raises:
        Unsupported: an operator that cannot be trained through; names the node.
    """

    def __init__(self, graph: gs.Graph, *, norms: bool = False) -> None:
        super().__init__()
        self.graph = graph
        self._norms: list[gs.Node] = []
        self._outputs = [t.name for t in graph.outputs]
        self._constants: dict[str, Tensor] = {}
        self._exact: set[str] = set()
        """Constants that are never rounded: sizes, scales, and statistics that learn."""
        self.parameter_names: dict[str, str] = {}
        """For the name of a trained constant, its key in `values`."""
        self.values = nn.ParameterDict()
        self.masks: dict[str, Tensor] = {}
        inputs = {t.name for t in graph.inputs}
        for node in graph.nodes:
            if not is_standard(node, *TORCH_OPERATORS) or len(node.outputs) != 1:
                raise Unsupported(f"{node.op} cannot be trained through", node=label(node))
            if node.op not in LAYERS and node.inputs[0].name in inputs:
                inputs.add(node.outputs[0].name)
            elif norms and node.op == "BatchNormalization":
                self._norms.append(node)
            for position, tensor in enumerate(node.inputs):
                values = None if tensor.is_empty() else constant_of(tensor)
                if values is None:
                    continue
                norm = self._norms[-1:] == [node] and position in (1, 2)
                trained = norm or _is_trained(node, position, values, inputs)
                if trained and tensor.name not in self.parameter_names:
                    key = str(len(self.parameter_names))
                    self.parameter_names[tensor.name] = key
                    self.values[key] = nn.Parameter(_channels_last(values))
                    if node.op == "Conv" and position == 1 and values.ndim == 4:
                        mask = trainable_mask(values)
                        if not mask.all():
                            self.masks[key] = _channels_last(mask).to(self.values[key].dtype)
                elif not trained:
                    self._constants[tensor.name] = torch.from_numpy(values.copy())
                    if node.op == "Resize" or self._norms[-1:] == [node]:
                        self._exact.add(tensor.name)

    def forward(
        self,
        feeds: Mapping[str, Tensor],
        watch: Callable[[gs.Node, Inputs, Tensor], None] | None = None,
        *,
        bfloat16: bool = False,
    ) -> dict[str, Tensor]:
        """Every output by name; `watch` sees each node with its inputs and its output.

        With `bfloat16`, everything between the inputs and the outputs is: weights are rounded for
        the pass only, sums have full precision, and no tensor is cast to and fro on its way.
        """
        known: dict[str, Tensor] = {**self._constants, **feeds}
        for name, key in self.parameter_names.items():
            known[name] = self.values[key]
        if bfloat16:
            known = {n: v if n in self._exact else _rounded(v) for n, v in known.items()}
        learning = IdentitySet(self._norms)
        for node in self.graph.nodes:
            inputs = [None if t.is_empty() else known[t.name] for t in node.inputs]
            operator = TORCH_OPERATORS[node.op]
            if self.training and node in learning:
                operator = partial(batch_norm, learning=True)
            result = operator(node, inputs)
            if watch is not None:
                watch(node, inputs, result)
            known[node.outputs[0].name] = result
        results = {name: known[name] for name in self._outputs}
        return {n: v.float() if v.dtype == torch.bfloat16 else v for n, v in results.items()}

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> TorchNet:
        """What `to` calls: constants and masks go along with the parameters."""
        super()._apply(move, recurse)
        self.masks = {key: move(mask) for key, mask in self.masks.items()}
        self._constants = {name: move(values) for name, values in self._constants.items()}
        return self

    def placed(self, values: NDArray[np.generic]) -> Tensor:
        """A copy of an input where the network is, in the layout that it is fastest with."""
        return _channels_last(values).to(next(self.values.parameters(), torch.zeros(())).device)

    def keep_masks(self) -> None:
        """Put the zeros of pruned weights back, after a step of the optimiser."""
        with torch.no_grad():
            for key, mask in self.masks.items():
                self.values[key].mul_(mask)

    def write_back(self) -> None:
        """Store the parameters in the graph's constants."""
        tensors = self.graph.tensors()
        for name, key in self.parameter_names.items():
            _store(tensors[name], self.values[key].detach())
        for node in self._norms:
            for statistic in node.inputs[3:]:
                _store(statistic, self._constants[statistic.name])


def _rounded(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16) if values.is_floating_point() else values


def _store(tensor: gs.Tensor, values: Tensor) -> None:
    assert isinstance(tensor, gs.Constant)
    tensor.values = values.cpu().numpy().copy()
