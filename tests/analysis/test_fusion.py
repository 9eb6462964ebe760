"""What the latency model takes for one kernel is what the compiler makes one kernel of."""

from __future__ import annotations

import pytest
from tvm import relax

from graphopt.analysis.latency.fusion import fused_into
from graphopt.codegen.importing.importer import import_onnx
from graphopt.codegen.lowering.fusion import find_regions
from graphopt.ir.convolution import CONV_OPS
from graphopt.ir.graph import is_standard
from graphopt.ir.onnx_io import to_proto
from graphopt.ir.shape_inference import infer_shapes
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.zoo.catalogue import build


@pytest.mark.parametrize(
    ("name", "count"),
    [("lightweight-openpose", 59), ("efficientnet-pose", 91), ("efficienthrnet-h1", 334)],
)
def test_convolutions_of_whole_networks_take_the_same_nodes(name: str, count: int) -> None:
    passes = parse_pipeline(PRESETS["exact"])
    graph = run_pipeline(build(name, (1, 3, 64, 64)), passes, verify="off").graph
    for node in graph.nodes:
        node.name = node.outputs[0].name
    convolutions = {node.name for node in graph.nodes if is_standard(node, *CONV_OPS)}
    shapes = {tensor: shape for tensor, (_, shape) in infer_shapes(graph, None).items()}
    owners = fused_into(graph, shapes)
    fused = {node.name: owner.name for node, owner in owners.items()}
    fused = {node: owner for node, owner in fused.items() if owner in convolutions}

    module, node_of = import_onnx(to_proto(graph))
    main = module["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    outputs = [main.body.body]
    if isinstance(bindings[-1].value, relax.Tuple):
        outputs = list(bindings.pop().value.fields)
    compiled = {}
    for region in find_regions(bindings, outputs):
        # Of what one node computes in several steps, the last one has its name.
        nodes = {node_of.get(member.name) for member in region.members} - {None}
        (owner,) = nodes & convolutions
        compiled |= dict.fromkeys(nodes - {owner}, owner)
    assert fused == compiled
    assert len(fused) == count
