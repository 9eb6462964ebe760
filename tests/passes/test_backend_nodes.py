"""Every pass on the models that ONNX tests its backends with: each operator in all its forms."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from graphopt.analysis.latency.device import load_device
from graphopt.errors import GraphoptError, InputError
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.optimizer.pass_contract import Change, Context, Numerics, Pass
from graphopt.runtime.engine import OnnxRuntimeEngine

ALL = bool(os.environ.get("GRAPHOPT_THOROUGH"))
"""Every model in every form, for minutes, and not only a part of them."""


@cache
def cases() -> list[TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the data overflows and divides by zero on purpose
        return [case for case in load_model_tests(kind="node") if case.data_sets]


def as_it_is(case: TestCase) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model with its inputs."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    return model, dict(zip((i.name for i in model.graph.input), case.data_sets[0][0], strict=True))


def all_constant(case: TestCase) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Its inputs as constants, and its outputs handed on once more: all of it can go."""
    model, feeds = as_it_is(case)
    for name, values in feeds.items():
        if not isinstance(values, np.ndarray):
            raise InputError("sequences and the like cannot be constants")
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    del model.graph.input[:]
    return _with_tails(model), {}


def weights_constant(case: TestCase) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """All its inputs but the first as constants, as weights, shapes and bounds are in networks."""
    model, _ = all_constant(case)
    if not case.model.graph.input:
        raise InputError("there is no input to keep")
    first = case.model.graph.input[0]
    model.graph.input.append(first)
    kept = [tensor for tensor in model.graph.initializer if tensor.name != first.name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model, {first.name: case.data_sets[0][0][0]}


def _with_tails(model: onnx.ModelProto) -> onnx.ModelProto:
    """The outputs handed on once more, so that what made them is free to go."""
    names = {output.name: f"{output.name}.inner" for output in model.graph.output}
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)
    for name, inner in names.items():
        model.graph.node.append(onnx.helper.make_node("Identity", [inner], [name]))
    return model


def values(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    if not all(isinstance(value, np.ndarray) for value in feeds.values()):
        raise InputError("onnxruntime's Python interface takes arrays, and so do we")
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1, optimize=False)
    return list(engine.run(feeds).values())


def same(value: Any, expected: Any, case: TestCase) -> bool:
    """Whether type and shape are the same, and values equal within the case's tolerance."""
    if not isinstance(expected, np.ndarray):
        if isinstance(expected, list):
            pairs = zip(value, expected, strict=True)
            return len(value) == len(expected) and all(same(a, b, case) for a, b in pairs)
        return bool(value == expected)
    if value.dtype != expected.dtype or value.shape != expected.shape:
        return False
    if expected.dtype.kind not in "fc":
        return np.array_equal(value, expected)
    return np.allclose(value, expected, rtol=case.rtol, atol=case.atol, equal_nan=True)


@pytest.mark.parametrize(
    ("form", "stride", "enough"),
    [(as_it_is, 8, 100), (weights_constant, 3, 300), (all_constant, 8, 100)],
    ids=["as it is", "weights constant", "all constant"],
)
def test_no_pass_breaks_a_node(
    form: Callable[..., Any], stride: int, enough: int, every_pass: list[Pass[Any]], tmp_path: Path
) -> None:
    passes = [chosen for chosen in every_pass if not chosen.needs_images]
    device = load_device("adreno-640")
    failures, count = [], Counter[str]()
    for case in cases()[:: 1 if ALL else stride]:
        try:
            model, feeds = form(case)
            expected = values(model, feeds)
        except (InputError, ValueError):
            count["does not run"] += 1
            continue
        path = tmp_path / "node.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            graph = load_model(path)
        except GraphoptError:
            count["refused"] += 1
            continue
        count["compared"] += 1
        for chosen in passes:
            changed = graph.copy()
            context = Context(original=graph, device=device)
            try:
                if not _changes(chosen, changed, context):
                    continue
                proto = to_proto(changed)
                onnx.checker.check_model(proto, full_check=_infers(model))
                got = values(proto, feeds)
                again = _changes(chosen, changed, context)
            except Exception as error:
                failures.append(f"{case.name}, {chosen}: {type(error).__name__}: {error}")
                continue
            if chosen.numerics is Numerics.EXACT:
                fine = all(same(a, b, case) for a, b in zip(got, expected, strict=True))
            else:
                fine = [np.shape(a) for a in got] == [np.shape(b) for b in expected]
            if not fine:
                failures.append(f"{case.name}, {chosen}: other outputs")
            if again:
                failures.append(f"{case.name}, {chosen}: a second run changes more: {again}")
    assert not failures, "\n".join(failures)
    assert count["compared"] >= enough, count


def _changes(chosen: Pass[Any], graph: gs.Graph, context: Context) -> tuple[Change, ...]:
    """What the pass changed; nothing where it says why it cannot work at all."""
    try:
        return chosen.run(graph, context).changes
    except GraphoptError:
        return ()


def _infers(model: onnx.ModelProto) -> bool:
    """Whether ONNX's shape inference gets through the model: it stumbles over a few of its own."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True
