r"""A pass for an experiment: deeper and narrower from trained weights.

    graphopt optimize pose.onnx --calib photos/ --load examples/deepen.py \
        --passes 'canonicalize, deepen, prune-channels{ratio=0.5}, reconstruct, distill'

Shen et al. (IJCAI-21, section 2.1) find that of two backbones of the same cost the deeper and
narrower is the better, trained from the start. This asks whether a trained network can be made so.
README, "Deeper and narrower from trained weights", says what came of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Annotated, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import emit
from graphopt.ir.graph import is_standard, label, only_consumer, scalar_of
from graphopt.optimizer.pass_contract import Change, Numerics, Pass, Skip, option

Site: TypeAlias = tuple[gs.Node, gs.Node, Convolution]
"""A convolution, the activation behind it, and what the convolution is."""


@dataclass(frozen=True)
class Deepen(Pass[Site]):
    """Put blocks that change nothing, yet, behind pointwise convolutions that keep the width.

    Rewrite:
        Relu(Conv1x1(x)) of as many channels as x is followed by a depthwise 3x3 convolution with a
        one in the middle, Relu, a 1x1 convolution with the identity, and Relu.

    Numerics:
        Exact: what Relu made is not negative, so Relu and identities return it (Chen et al.,
        "Net2Net", ICLR 2016, section 2.3). Training makes use of what was put in.

    Why:
        See the paper named above. Let `prune-channels` bring the cost back.

    When it skips:
        The activation behind is not Relu, or Clip from zero on.
    """

    name = "deepen"
    numerics = Numerics.EXACT

    blocks: Annotated[int, Field(ge=1)] = option(1, "how many behind each convolution")
    layers: str = option("*", "the convolutions' names, * for any characters")

    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        for node in list(graph.nodes):
            spec = Convolution.of(node)
            if spec is None or spec.op != "Conv" or not fnmatch(label(node), self.layers):
                continue
            if spec.kernel != (1, 1) or spec.group > 1 or spec.in_channels != spec.out_channels:
                continue
            activation = only_consumer(graph, node.outputs[0])
            if activation is None or not _keeps_what_it_made(activation):
                yield Skip(label(node), "what follows is not Relu, or Clip from zero on")
            else:
                yield node, activation, spec

    def rewrite(self, graph: gs.Graph, site: Site) -> Change:
        node, activation, spec = site
        width, kind = spec.out_channels, spec.weight.dtype
        middle = np.zeros((width, 1, 3, 3), kind)
        middle[..., 1, 1] = 1
        identity = np.eye(width, dtype=kind)[..., None, None]
        bias = np.zeros(width, kind)
        made, name = node.outputs[0], node.outputs[0].name

        def activated(x: gs.Tensor) -> gs.Tensor:
            rest = activation.inputs[1:]
            return emit(graph, activation.op, x, *rest, out=f"{name}.kept", **activation.attrs)

        for _ in range(self.blocks):
            x = activated(made)
            x = emit(graph, "Conv", x, middle, bias, out=f"{name}.look", pads=[1] * 4, group=width)
            made = emit(graph, "Conv", activated(x), identity, bias, out=f"{name}.mix")
        activation.inputs[0] = made
        return Change(label(node), f"{self.blocks} more of {width} channels")


def _keeps_what_it_made(activation: gs.Node) -> bool:
    if is_standard(activation, "Clip") and len(activation.inputs) > 1:
        return scalar_of(activation.inputs[1]) == 0
    return is_standard(activation, "Relu")
