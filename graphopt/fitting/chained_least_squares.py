"""Least squares for a convolution whose target lies behind other convolutions.

A stack that took one layer's place is linear as a whole, but only its last output has a counterpart
in the original. The first convolution is fitted through those behind it: conjugate gradients on the
normal equations (Hestenes and Stiefel, 1952), preconditioned with the Gram matrix of what the
convolution sees, as in Kronecker-factored curvature (Martens and Grosse, ICML 2015).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
import scipy
from numpy.typing import NDArray

from graphopt.fitting.layerwise_runner import make_session
from graphopt.fitting.patch_sampling import Sample
from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import only_consumer
from graphopt.runtime.engine import OnnxRuntimeEngine

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
STEPS = 8
"""Steps of conjugate gradients; the guard on held-out images judges what they give."""


def adjoint_exists(spec: Convolution) -> bool:
    """Whether a gradient can be led back through a convolution here: stride 1, known pads."""
    return len(spec.kernel) == 2 and set(spec.strides) == {1} and spec.pads is not None


def chain_engine(chain: Sequence[Convolution], *, adjoint: bool = False) -> OnnxRuntimeEngine:
    """The convolutions in a row, or the adjoint of their linear part: `x` to `y`."""
    first = gs.Variable("x", np.float32, [1, None, None, None])
    nodes, tensor = [], first
    for index, spec in enumerate(reversed(chain) if adjoint else chain):
        inputs = [tensor, gs.Constant(f"w{index}", np.asarray(spec.weight, np.float32))]
        if spec.bias is not None and not adjoint:
            inputs.append(gs.Constant(f"b{index}", np.asarray(spec.bias, np.float32)))
        tensor = gs.Variable(f"y{index}", np.float32)
        attributes = {
            "pads": spec.pads,
            "strides": spec.strides,
            "dilations": spec.dilations,
            "group": spec.group,
        }
        op = "ConvTranspose" if adjoint else "Conv"
        nodes.append(gs.Node(op, f"n{index}", attributes, inputs, [tensor]))
    tensor.name = "y"
    return make_session(gs.Graph(nodes, [first], [tensor], opset=13, ir_version=7))


@dataclass(frozen=True)
class Through:
    """The problem: a first convolution's weights, and a target behind the last one.

    Args:
        chain: the convolutions in order; those behind the first have stride 1.
        inputs: what the first one reads, [1,C,H,W] for each image.
        samples: the target of the last one, at some positions of each image.
    """

    chain: Sequence[Convolution]
    inputs: Sequence[Array]
    samples: Sequence[Sample]

    def outputs(self, solution: Doubles, *, linear: bool = False) -> list[Floats]:
        """What the chain makes at the samples' positions with these weights of its first layer.

        Args:
            solution: weights and bias, [group, K+1, filters].
            linear: leave out the biases of the layers behind it.
        """
        first, *rest = self.chain
        weight, bias = unpacked(solution, first)
        rest = [replace(spec, bias=None) for spec in rest] if linear else rest
        engine = chain_engine([replace(first, weight=weight, bias=bias), *rest])
        made = (engine.run({"x": values})["y"][0] for values in self.inputs)
        pairs = zip(made, self.samples, strict=True)
        return [y[:, sample.rows, sample.columns].T for y, sample in pairs]

    def solve(self, start: Doubles) -> Doubles:
        """Weights and bias of the first layer, from `start` on, both [group, K+1, filters]."""
        back = chain_engine(self.chain[1:], adjoint=True)
        made = self.outputs(start)
        residuals = [s.values - y for s, y in zip(self.samples, made, strict=True)]
        gram, slope = self._gram(), self._gradient(residuals, back)
        pull = 1e-3 * np.trace(gram, axis1=1, axis2=2)[:, None, None] / gram.shape[1]
        factors = [scipy.linalg.cho_factor(g) for g in gram + pull * np.eye(gram.shape[1])]
        solution: Doubles = start.copy()
        step, last = np.zeros_like(start), 1.0
        for count in range(STEPS):
            pairs = zip(factors, slope, strict=True)
            ascent = np.stack([scipy.linalg.cho_solve(factor, s) for factor, s in pairs])
            gain = float((slope * ascent).sum())
            step = ascent + (gain / last if count else 0.0) * step
            moved = self.outputs(step, linear=True)
            length = gain / max(sum(float(np.square(m).sum()) for m in moved), 1e-30)
            solution += length * step
            residuals = [r - length * m for r, m in zip(residuals, moved, strict=True)]
            slope = self._gradient(residuals, back)
            last = max(gain, 1e-30)
        return solution

    def _gram(self) -> Doubles:
        """The sum of the products of what the first layer sees: [group, K+1, K+1]."""
        first = self.chain[0]
        unknowns = first.weight[0].size + 1
        gram: Doubles = np.zeros((first.group, unknowns, unknowns))
        engine = chain_engine([first])
        for values in self.inputs:
            patches = Sample.everywhere(engine.run({"x": values})["y"]).patches(values, first)
            gram += patches.transpose(0, 2, 1) @ patches
        return gram

    def _gradient(self, residuals: Sequence[Floats], back: OnnxRuntimeEngine) -> Doubles:
        """The residuals, led back to the weights and bias of the first layer."""
        first = self.chain[0]
        slope: Doubles = np.zeros(
            (first.group, first.weight[0].size + 1, first.out_channels // first.group)
        )
        for values, sample, residual in zip(self.inputs, self.samples, residuals, strict=True):
            behind = np.zeros((1, residual.shape[1], *sample.size), np.float32)
            behind[0][:, sample.rows, sample.columns] = residual.T
            everywhere = Sample.everywhere(back.run({"x": behind})["y"])
            patches = everywhere.patches(values, first)
            slope += patches.transpose(0, 2, 1) @ everywhere.grouped(first.group)
        return slope


def unpacked(solution: Doubles, spec: Convolution) -> tuple[Doubles, Doubles]:
    """[group, K+1, filters] as a convolution's weight and bias."""
    return solution[:, :-1].transpose(0, 2, 1).reshape(spec.weight.shape), solution[:, -1].ravel()


def chain_to_counterpart(
    graph: gs.Graph, node: gs.Node, counterparts: Container[str]
) -> list[gs.Node]:
    """The convolutions from this one to the first with a counterpart; empty if none follows."""
    chain = [node]
    while chain[-1].outputs[0].name not in counterparts:
        reader = only_consumer(graph, chain[-1].outputs[0])
        spec = None if reader is None else Convolution.of(reader)
        if reader is None or spec is None or not adjoint_exists(spec):
            return []
        chain.append(reader)
    return chain
