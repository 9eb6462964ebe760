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

from graphopt.fitting.calibration import Calibration
from graphopt.ir.header import copy_model
from graphopt.ir.onnx_io import load_model, save_model, to_proto
from graphopt.optimizer.manual import options_of
from graphopt.optimizer.pass_contract import Outcome, Pass
from graphopt.optimizer.registry import find_passes
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.zoo.catalogue import build


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


@pytest.fixture
def lightweight_openpose() -> Callable[..., gs.Graph]:
    """lightweight_openpose(refinements=1) -> graph, BatchNormalization folded, weights 0."""

    def make(refinements: int = 1) -> gs.Graph:
        options = {"refinements": refinements}
        graph = build("lightweight-openpose", seed=None, options=options)
        FoldBatchNorm().run(graph)
        return graph

    return make
