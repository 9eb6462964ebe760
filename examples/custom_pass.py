"""A pass of your own: Clip(Relu(x), low, high) needs no Relu when low is not negative.

    graphopt optimize pose.onnx --preset exact --passes drop-relu --load examples/custom_pass.py

To install it for every run, name the class in your package's entry points:

    [project.entry-points."graphopt.passes"]
    drop-relu = "your_package.custom_pass:DropRelu"
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphopt.ir.edit import remove_unread
from graphopt.ir.graph import is_standard, label, producer_of, scalar_of
from graphopt.optimizer.pass_contract import Change, Numerics, Pass, Skip


@dataclass(frozen=True)
class DropRelu(Pass[gs.Node]):
    """Clip(Relu(x), low, high) -> Clip(x, low, high), exact when low >= 0."""

    name = "drop-relu"
    numerics = Numerics.EXACT

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:
        for clip in list(graph.nodes):
            relu = producer_of(clip.inputs[0]) if is_standard(clip, "Clip") else None
            if relu is None or not is_standard(relu, "Relu"):
                continue
            low = scalar_of(clip.inputs[1]) if len(clip.inputs) > 1 else None
            if low is None or low < 0:
                yield Skip(label(clip), "its lower bound is negative, or not constant")
            else:
                yield clip

    def rewrite(self, graph: gs.Graph, clip: gs.Node) -> Change:
        relu = clip.inputs[0].inputs[0]
        clip.inputs[0] = relu.inputs[0]
        remove_unread(graph, [relu])
        return Change(label(clip), "reads from before its Relu")
