"""Small networks written as text, and comparing what passes make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from graphopt.engine import OnnxRuntimeEngine
from graphopt.fitting.calibration import Calibration
from graphopt.graph import emit, refresh_shapes
from graphopt.model import copy_model, load_model, save_model, to_proto
from graphopt.passbase import Outcome, Pass, options_of
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import MapSlice, PoseSpec, Preprocess
from graphopt.registry import find_passes
from graphopt.verify import difference


@pytest.fixture
def network(proto: Callable[..., onnx.ModelProto], tmp_path: Path) -> Callable[..., gs.Graph]:
    """The same as a graph, by way of a file."""

    def make(*args: str, **kwargs: np.ndarray | int) -> gs.Graph:
        path = tmp_path / "network.onnx"
        onnx.save(proto(*args, **kwargs), path)
        return load_model(path)

    return make


def run(graph: gs.Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for tensor in graph.inputs:
        shape = [dim if isinstance(dim, int) else 2 for dim in tensor.shape]
        feeds[tensor.name] = np.asarray(3 * rng.standard_normal(shape), tensor.dtype)
    return OnnxRuntimeEngine(to_proto(graph).SerializeToString(), threads=1).run(feeds)


@pytest.fixture
def rewrite() -> Callable[..., tuple[gs.Graph, Outcome]]:
    """Run a pass on a copy; the copy is valid ONNX with the same outputs up to `tolerance`."""

    def check(
        graph: gs.Graph, chosen: Pass, *, tolerance: float = 1e-5
    ) -> tuple[gs.Graph, Outcome]:
        rewritten = copy_model(graph)
        outcome = chosen.run(rewritten)
        onnx.checker.check_model(to_proto(rewritten), full_check=True)
        before, after = run(graph), run(rewritten)
        assert list(before) == list(after)
        for name, values in before.items():
            assert difference(after[name], values) <= tolerance, name
        return rewritten, outcome

    return check


@pytest.fixture
def ops() -> Callable[[gs.Graph], list[str]]:
    """The operators of a graph, in order."""
    return lambda graph: [node.op for node in graph.nodes]


@pytest.fixture
def normal() -> Callable[..., np.ndarray]:
    """Seeded normal weights: normal(4, 3, 3, 3)."""
    rng = np.random.default_rng(7)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


_POSE_NET = """
a = Conv<pads=[1,1,1,1], strides=[4,4]>(x, first) b = Relu(a)
c = Conv<pads=[1,1,1,1]>(b, back, back_bias) d = Relu(c)
e = Conv(d, paf_inner) f = Relu(e) paf = Conv(f, paf_last)
g = Conv(d, heat_inner) h = Relu(g) heat = Conv(h, heat_last)
"""
_SHAPES = {
    "first": (32, 3, 3, 3),
    "back": (32, 32, 3, 3),
    "back_bias": (32,),
    "paf_inner": (32, 32, 1, 1),
    "paf_last": (38, 32, 1, 1),
    "heat_inner": (32, 32, 1, 1),
    "heat_last": (19, 32, 1, 1),
}


@pytest.fixture
def calibrated() -> Callable[[gs.Graph], tuple[gs.Graph, Calibration]]:
    """A network with outputs `heat` and `paf`, and made-up images for it."""

    def make(graph: gs.Graph) -> tuple[gs.Graph, Calibration]:
        spec = PoseSpec(
            preprocess=Preprocess(color="bgr", mean=(128,) * 3, scale=(1 / 64,) * 3),
            skeleton=load_skeleton("coco18"),
            heat=MapSlice(output="heat", count=19),
            paf=MapSlice(output="paf", count=38),
            stride=4,
        )
        return graph, Calibration.synthetic(graph, spec, count=10)

    return make


@pytest.fixture
def small(
    network: Callable[..., gs.Graph],
    normal: Callable[..., np.ndarray],
    calibrated: Callable[[gs.Graph], tuple[gs.Graph, Calibration]],
) -> tuple[gs.Graph, Calibration]:
    """A backbone of two layers and two branches, random: (graph, calibration)."""
    weights = {name: normal(*shape) / 9 for name, shape in _SHAPES.items()}
    outputs = "float[1,19,16,16] heat, float[1,38,16,16] paf"
    return calibrated(network("float[1,3,64,64] x", outputs, _POSE_NET, **weights))


@pytest.fixture
def pose_files(small: tuple[gs.Graph, Calibration], tmp_path: Path) -> tuple[Path, Path]:
    """The same as a file that says how it is read, and a folder of five photos for it."""
    graph, calibration = small
    model, photos = tmp_path / "net.onnx", tmp_path / "photos"
    save_model(graph, model, metadata={"graphopt.pose": calibration.spec.model_dump_json()})
    photos.mkdir()
    for number in range(5):
        calibration.picture(number).save(photos / f"{number}.png")
    return model, photos


_CHOSEN = {"stages": 1, "max_residual": 9.0, "steps": 1, "batch": 2, "crop": 32, "narrow": 4}
"""For options that have no default, or whose default leaves random weights alone or takes long."""


@pytest.fixture(scope="session")
def every_pass() -> list[Pass[Any]]:
    """Every pass that there is, with its defaults and with each alternative of its options."""
    found: list[Pass[Any]] = []
    for pass_type in find_passes().values():
        options = options_of(pass_type).values()
        given = {o.name: _CHOSEN[o.name] for o in options if o.name in _CHOSEN}
        assert all(o.default is not MISSING or o.name in given for o in options), pass_type.name
        plain = pass_type(**given)
        found.append(plain)
        found += [
            replace(plain, **{o.name: alternative})
            for o in options
            if get_origin(o.type) is Literal
            for alternative in get_args(o.type)
            if alternative != o.default
        ]
    return found


def _lightweight_openpose(
    refinements: int = 1, size: int = 368, weights: Callable[[tuple[int, ...]], Any] = np.zeros
) -> gs.Graph:
    """Lightweight OpenPose as published (Osokin, 2018), its BatchNormalizations folded.

    Args:
        refinements: stages after the initial one.
        size: height and width of the input.
        weights: gives the values of a shape; zeros cost no memory until somebody reads them.
    """
    x = gs.Variable("x", np.dtype(np.float32), [1, 3, size, size])
    graph = gs.Graph(inputs=[x], opset=17, ir_version=8)

    def conv(
        x: gs.Tensor, shape: tuple[int, ...], activation: str = "Relu", **attrs: Any
    ) -> gs.Tensor:
        values = [np.asarray(weights(s), np.float32) for s in (shape, shape[:1])]
        pads = [shape[2] // 2 * attrs.get("dilations", [1])[0]] * 4
        made = emit(graph, "Conv", x, *values, out="conv", pads=pads, **attrs)
        return emit(graph, activation, made, out="active") if activation else made

    def separable(x: gs.Tensor, channels: int, filters: int, elu: bool, **attrs: Any) -> gs.Tensor:
        activation = "Elu" if elu else "Relu"
        x = conv(x, (channels, 1, 3, 3), activation, group=channels, **attrs)
        return conv(x, (filters, channels, 1, 1), activation)

    def maps(x: gs.Tensor, inner: int) -> list[gs.Tensor]:
        return [
            conv(conv(x, (inner, 128, 1, 1)), (count, inner, 1, 1), activation="")
            for count in (19, 38)
        ]

    tensor, channels = conv(x, (32, 3, 3, 3), strides=[2, 2]), 32
    for filters, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 1)]:
        tensor = separable(tensor, channels, filters, elu=False, strides=[stride] * 2)
        channels = filters
    for dilation in (2, 1, 1, 1, 1):
        tensor = separable(tensor, 512, 512, elu=False, dilations=[dilation] * 2)
    aligned = tensor = conv(tensor, (128, 512, 1, 1))
    for _ in range(3):
        tensor = separable(tensor, 128, 128, elu=True)
    features = conv(emit(graph, "Add", aligned, tensor, out="sum"), (128, 128, 3, 3))
    tensor = features
    for _ in range(3):
        tensor = conv(tensor, (128, 128, 3, 3))
    stage = maps(tensor, 512)
    for _ in range(refinements):
        tensor, channels = emit(graph, "Concat", features, *stage, out="joined", axis=1), 185
        for _ in range(5):
            initial = conv(tensor, (128, channels, 1, 1))
            inner = conv(initial, (128, 128, 3, 3))
            inner = conv(inner, (128, 128, 3, 3), dilations=[2, 2])
            tensor, channels = emit(graph, "Add", initial, inner, out="block"), 128
        stage = maps(tensor, 128)
    graph.outputs = stage
    for tensor, count in zip(stage, (19, 38), strict=True):
        tensor.shape = [1, count, size // 8, size // 8]
    refresh_shapes(graph)
    return graph


@pytest.fixture(scope="session")
def lightweight_openpose() -> Callable[..., gs.Graph]:
    """lightweight_openpose(refinements=1, size=368, weights=np.zeros) -> graph."""
    return _lightweight_openpose
