"""What the latency model takes for one kernel is what the compiler makes one kernel of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from tvm import relax

from graphopt.analysis.latency.fusion import fused_into
from graphopt.codegen.importing.importer import import_onnx
from graphopt.codegen.importing.supported import IMPORTED
from graphopt.codegen.lowering.fusion import find_regions
from graphopt.ir.convolution import CONV_OPS
from graphopt.ir.graph import is_standard
from graphopt.ir.onnx_io import to_proto
from graphopt.ir.operators import OPERATORS, Fusion, Kind, Operator
from graphopt.ir.shape_inference import infer_shapes
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.zoo.catalogue import build

OPERANDS = {"Add": 2, "Div": 2, "Max": 2, "Mean": 2, "Min": 2, "Mul": 2, "Pow": 2, "PRelu": 2}
OPERANDS |= {"Sub": 2, "Sum": 2}
"""How many inputs are given, where that is not one."""
COMPILED = [
    operator
    for operator in OPERATORS.values()
    if operator.kind is Kind.ELEMENTWISE and operator.name in IMPORTED - {"Where"}
]


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
    compiled: dict[str | None, str | None] = {}
    for region in find_regions(bindings, outputs):
        # Of what one node computes in several steps, the last one has its name.
        nodes = {node_of.get(member.name) for member in region.members} - {None}
        (owner,) = nodes & convolutions
        compiled |= dict.fromkeys(nodes - {owner}, owner)
    assert fused == compiled
    assert len(fused) == count


@pytest.mark.parametrize("operator", COMPILED, ids=lambda o: o.key)
def test_convolutions_take_in_the_operators_that_the_registry_says(
    operator: Operator, proto: Callable[..., onnx.ModelProto]
) -> None:
    operands = ", ".join(["a", "b"][: OPERANDS.get(operator.name, 1)])
    model = proto(
        "float[1,4,8,8] x, float[1,4,8,8] b",
        "float[1,4,8,8] y",
        f"a = Conv(x, w) y = {operator.key}({operands})",
        opset=24 if operator.name == "Swish" else 20,
        w=np.ones((4, 4, 1, 1), np.float32),
    )
    module, _ = import_onnx(model)
    body = module["main"].body
    bindings = [binding for block in body.blocks for binding in block.bindings]
    (region,) = find_regions(bindings, [body.body])
    absorbed = len(region.members) == len(bindings)
    assert absorbed == (operator.fusion is Fusion.EPILOGUE)
