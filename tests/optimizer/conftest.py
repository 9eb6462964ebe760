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
from graphopt.model import copy_model, load_model, to_proto
from graphopt.passbase import Outcome, Pass, options_of
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


_CHOSEN = {"stages": 1, "max_residual": 9.0, "steps": 1, "batch": 2, "crop": 32}
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
