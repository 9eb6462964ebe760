"""The original network as a teacher: what it makes of a batch of inputs.

Needs the extra `[distill]`; import it where training starts, not before.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import torch

from graphopt.errors import Unsupported
from graphopt.fitting.torchnet import TorchNet
from graphopt.ir.arrays import Array
from graphopt.ir.onnx_io import serialised
from graphopt.runtime.engine import OnnxRuntimeEngine


class Teacher:
    """Run by PyTorch where the student is; by onnxruntime, an input at a time, if it cannot be.

    Args:
        graph: the original network; it is not changed.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self._input = graph.inputs[0].name
        self._net: TorchNet | None = None
        self._engine: OnnxRuntimeEngine | None = None
        try:
            self._net = TorchNet(graph.copy())
        except Unsupported:
            with serialised(graph) as model:
                self._engine = OnnxRuntimeEngine(model)

    def to(self, device: torch.device) -> None:
        """Compute there from now on."""
        if self._net is not None:
            self._net.to(device)

    def __call__(self, x: Array, *, bfloat16: bool = False) -> dict[str, Array]:
        """The outputs for inputs [N,3,H,W], by name.

        Args:
            x: the inputs.
            bfloat16: compute in it, where PyTorch does.
        """
        if self._net is None:
            assert self._engine is not None
            alone = [self._engine.run({self._input: one[None]}) for one in x]
            return {name: np.concatenate([one[name] for one in alone]) for name in alone[0]}
        with torch.no_grad():
            outputs = self._net({self._input: self._net.placed(x)}, bfloat16=bfloat16)
        return {name: values.cpu().numpy() for name, values in outputs.items()}
