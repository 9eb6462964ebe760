"""Networks: graphs with a header that copies, files and passes keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.header import Header
from graphopt.ir.network import Network
from graphopt.ir.onnx_io import load_model, save_model


def by_hand(kind: type[gs.Graph]) -> gs.Graph:
    x, y = (gs.Variable(name, np.dtype(np.float32), (1, 2)) for name in "xy")
    return kind([gs.Node("Relu", "relu", {}, [x], [y])], [x], [y], opset=17, ir_version=8)


def test_a_copy_keeps_the_header_and_none_of_the_nodes() -> None:
    network = Network.of(by_hand(Network))
    network.header = Header(producer="me", metadata={"key": "value"})
    copied = network.copy()
    assert isinstance(copied, Network)
    assert copied.header == network.header
    copied.nodes.clear()
    copied.judge_at({"x": [1, 2]})
    assert copied.header.sizes == {"x": (1, 2)}
    assert network.header.sizes == {}
    assert len(network.nodes) == 1


def test_a_graph_made_by_hand_becomes_a_network_in_place() -> None:
    graph = by_hand(gs.Graph)
    node = graph.nodes[0]
    network = Network.of(graph)
    assert network is graph
    assert network.header == Header()
    assert network.nodes[0] is node
    network.header = Header(channels={"y": (0,)})
    assert Network.of(graph).header.channels == {"y": (0,)}
    assert Network().header == Header()


def test_a_plain_graph_can_be_saved_and_comes_back_with_what_was_stamped(tmp_path: Path) -> None:
    save_model(by_hand(gs.Graph), tmp_path / "m.onnx", metadata={"key": "value"})
    again = load_model(tmp_path / "m.onnx")
    assert isinstance(again, Network)
    assert again.header.metadata == {"key": "value"}
    save_model(again, tmp_path / "n.onnx", metadata={"other": "too"})
    assert load_model(tmp_path / "n.onnx").header.metadata == {"key": "value", "other": "too"}
    assert again.header.metadata == {"key": "value"}


def test_bodies_are_plain_graphs_in_copies_too() -> None:
    network = Network.of(by_hand(gs.Graph))
    taken, given = (gs.Variable(name, np.dtype(kind)) for name, kind in (("z", "f4"), ("c", "?")))
    inner = gs.Variable("inner", np.dtype(np.float32))
    body = gs.Graph([gs.Node("Abs", "abs", {}, [network.outputs[0]], [inner])], [], [inner])
    branches = {"then_branch": body, "else_branch": body.copy()}
    network.inputs.append(given)
    network.nodes.append(gs.Node("If", "if", branches, [given], [taken]))
    copied = network.copy().nodes[1].attrs["then_branch"]
    assert type(copied) is gs.Graph
    assert copied.nodes[0].inputs[0] is not network.outputs[0]
