"""Device profiles, what becomes one kernel, the price of a kernel, and measuring a profile."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from typer.testing import CliRunner

from graphopt.analysis.inspection import PricedLayer, inspect_models
from graphopt.analysis.latency.device import Device, LayerClass, devices, load_device
from graphopt.analysis.latency.fusion import fused_into
from graphopt.analysis.latency.predict import LayerLatency, predict, time_of, total_ms
from graphopt.analysis.latency.work import work_of
from graphopt.bench import calibration_network as calibrating
from graphopt.bench import device_profile
from graphopt.bench.calibration_network import calibration_network
from graphopt.bench.device_profile import matched
from graphopt.bench.profile_file import write_device
from graphopt.bench.profile_fit import FITTED, fit
from graphopt.cli import app
from graphopt.compiler.auto_precision import candidates
from graphopt.compiler.options import CompileOptions
from graphopt.errors import InputError, UsageError
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.runtime.runner import LayerTime

RATES = {
    "winograd": 100.0,
    "dense": 40.0,
    "dilated": 20.0,
    "pointwise": 50.0,
    "depthwise": 5.0,
    "exponential": 2.0,
}


def device(**changes: object) -> Device:
    """A device of round numbers; `winograd_channels=None` takes Winograd away."""

    def figure(value: float) -> dict[str, object]:
        return {"value": value, "source": "made up"}

    rates = {kind: figure(rate) for kind, rate in RATES.items()}
    winograd: Any = changes.pop("winograd_channels", 16)
    if winograd is None:
        del rates["winograd"]
    return Device.from_plain(
        {
            "name": "toy",
            "description": "",
            "rates": rates,
            "bandwidth": figure(10.0),
            "launch": figure(5.0),
            "winograd_channels": winograd and figure(winograd),
            **changes,
        }
    )


def weight(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


# --- profiles -----------------------------------------------------------------------------------


def test_every_profile_can_be_read() -> None:
    assert {"adreno-640", "adreno-660", "adreno-740", "mali-g76-mp12", "mali-g710-mp7"} <= set(
        devices()
    )
    for name in devices():
        profile = load_device(name)
        assert profile.name == name
        assert (LayerClass.WINOGRAD in profile.rates) == (profile.winograd_channels is not None)


GOOD = """
description = "a device"
bandwidth = { value = 10, source = "a" }
launch = { value = 5, source = "b" }
[rates]
dense = { value = 1, source = "c" }
dilated = { value = 1, source = "c" }
pointwise = { value = 1, source = "c" }
depthwise = { value = 1, source = "c" }
exponential = { value = 1, source = "c" }
"""


def test_a_profile_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_device(path).name == "mine"
    assert load_device(str(path)).bandwidth.value == 10


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("value = 10, ", ""), "bandwidth.value"),
        (("value = 10", "value = 0"), "bandwidth.value"),
        (('source = "b"', 'source = ""'), "launch.source"),
        (('dilated = { value = 1, source = "c" }', ""), "rates: dilated missing"),
        (
            ("dense =", "winograd = { value = 1, source = 'c' }\ndense ="),
            "rates.winograd and winograd_channels",
        ),
        (("dense =", "octonions ="), "rates.octonions"),
        (("launch", "lunch"), "launch"),
        (("[rates]", "[rates"), "is not TOML"),
    ],
)
def test_a_bad_profile_is_refused(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    path = tmp_path / "bad.toml"
    assert change[0] in GOOD
    path.write_text(GOOD.replace(*change))
    with pytest.raises(InputError) as caught:
        load_device(path)
    assert complaint in caught.value.message
    assert str(path) in caught.value.message


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="no device 'adreno-1'") as caught:
        load_device("adreno-1")
    assert "adreno-640" in (caught.value.hint or "")


# --- classes and times --------------------------------------------------------------------------

Proto = Callable[..., onnx.ModelProto]


def one_conv(
    proto: Proto, kernel: tuple[int, ...], channels: int = 16, attrs: str = ""
) -> gs.Graph:
    model = proto(
        f"float[1,{channels},32,32] x",
        "float[1,a,b,c] y",
        f"y = Conv {attrs} (x, w)",
        w=weight(*kernel),
    )
    return gs.import_onnx(model)


@pytest.mark.parametrize(
    ("kernel", "attrs", "kind"),
    [
        ((16, 16, 3, 3), "<pads=[1,1,1,1]>", LayerClass.WINOGRAD),
        ((8, 16, 3, 3), "", LayerClass.DENSE),
        ((16, 16, 3, 3), "<strides=[2,2]>", LayerClass.DENSE),
        ((16, 8, 3, 3), "<group=2>", LayerClass.DENSE),
        ((16, 16, 5, 5), "", LayerClass.DENSE),
        ((16, 16, 3, 3), "<dilations=[2,2]>", LayerClass.DILATED),
        ((16, 16, 1, 1), "<dilations=[2,2]>", LayerClass.POINTWISE),
        ((16, 1, 3, 3), "<group=16, dilations=[2,2]>", LayerClass.DEPTHWISE),
        ((16, 1, 5, 5), "<group=16>", LayerClass.DEPTHWISE_LARGE),
    ],
)
def test_classes(proto: Proto, kernel: tuple[int, ...], attrs: str, kind: LayerClass) -> None:
    (layer,) = predict(one_conv(proto, kernel, attrs=attrs), device())
    assert layer.kind is kind


def test_without_winograd_kernels_3x3_is_dense(proto: Proto) -> None:
    (layer,) = predict(one_conv(proto, (16, 16, 3, 3)), device(winograd_channels=None))
    assert layer.kind is LayerClass.DENSE


def test_a_kernel_takes_the_longer_of_its_work_and_its_traffic_and_a_launch(proto: Proto) -> None:
    macs = 64 * 64 * 32 * 32
    traffic = 4 * (2 * 64 * 32 * 32 + 64 * 64)
    (busy,) = predict(one_conv(proto, (64, 64, 1, 1), 64), device())
    assert (busy.macs, busy.bytes, busy.bound) == (macs, traffic, "compute")
    assert busy.ms == pytest.approx(2 * macs / 50e9 * 1e3 + 5e-3)
    slow = device(bandwidth={"value": 0.1, "source": "made up"})
    (starved,) = predict(one_conv(proto, (64, 64, 1, 1), 64), slow)
    assert starved.bound == "bandwidth"
    assert starved.ms == pytest.approx(traffic / 0.1e9 * 1e3 + 5e-3)
    (idle,) = predict(one_conv(proto, (1, 1, 1, 1), 1), device())
    assert idle.bound == "launch"


def test_half_precision_moves_half_the_bytes(proto: Proto) -> None:
    (full,) = predict(one_conv(proto, (16, 16, 1, 1)), device())
    (half,) = predict(one_conv(proto, (16, 16, 1, 1)), device(element_bytes=2))
    assert half.bytes * 2 == full.bytes


def test_empty_lanes_are_computed_too(proto: Proto) -> None:
    slow = {kind: {"value": 1e-3, "source": "made up"} for kind in RATES}
    (wide,) = predict(one_conv(proto, (32, 32, 1, 1), 32), device(lanes=16, rates=slow))
    (odd,) = predict(one_conv(proto, (17, 17, 1, 1), 17), device(lanes=16, rates=slow))
    assert odd.ms == pytest.approx(wide.ms, rel=1e-3)
    assert odd.macs < wide.macs
    # A photo's three channels are read as they are: no lanes are empty on that side.
    (photo,) = predict(one_conv(proto, (16, 3, 1, 1), 3), device(lanes=16, rates=slow))
    assert photo.ms == pytest.approx(2 * photo.macs / 1e-3 * 1e-6, rel=1e-3)


@pytest.mark.parametrize(("mode", "reads"), [("nearest", 1), ("linear", 4), ("cubic", 16)])
def test_resampling_is_counted_by_what_it_reads(proto: Proto, mode: str, reads: int) -> None:
    model = proto(
        "float[1,2,8,8] x",
        "float[1,2,16,16] y",
        f'y = Resize <mode="{mode}"> (x, , s)',
        s=np.array([1, 1, 2, 2], np.float32),
    )
    (work,) = work_of(gs.import_onnx(model), device())
    assert work.kind is LayerClass.RESIZE
    assert work.operations == 2 * 16 * 16 * reads


def test_dynamic_sizes_must_be_given(proto: Proto) -> None:
    model = proto(
        "float[1,16,h,w] x", "float[1,16,h,w] y", "y = Conv (x, w)", w=weight(16, 16, 1, 1)
    )
    graph = gs.import_onnx(model)
    with pytest.raises(InputError, match="shape is not known") as caught:
        predict(graph, device())
    assert "--input-shape" in (caught.value.hint or "")
    (layer,) = predict(graph, device(), {"x": (1, 16, 8, 8)})
    assert layer.macs == 16 * 16 * 64


# --- what becomes one kernel --------------------------------------------------------------------


def by_output(layers: list[LayerLatency], graph: gs.Graph) -> dict[str, LayerLatency]:
    return {n.outputs[0].name: layer for n, layer in zip(graph.nodes, layers, strict=True)}


EPILOGUES = {
    "activation": ("c = Conv (x, w) y = Relu (c)", {"y"}),
    "swish": ("c = Conv (x, w) s = Sigmoid (c) y = Mul (c, s)", {"s", "y"}),
    "bias and residual": ("c = Conv (x, w) b = Add (c, v) y = Add (x, b)", {"b", "y"}),
    "two convolutions, one sum": ("c = Conv (x, w) d = Conv (x, u) y = Add (c, d)", {"y"}),
    "a second reader": ("c = Conv (x, w) y = Relu (c) z = Conv (c, u)", set()),
    "another shape": ("c = Conv (x, w) m = GlobalAveragePool (c) y = Mul (c, m)", set()),
    "no operation that a kernel knows": ("c = Conv (x, w) y = Erf (c)", set()),
    "a size and a quotient": ("c = Conv (x, w) y = Softsign (c)", {"y"}),
    "a constant of other extents": ("c = Conv (x, w) y = Mul (c, q)", set()),
}
"""A body that makes y (z is the negative of x where it is not made), and what a kernel does too."""


@pytest.mark.parametrize("name", EPILOGUES)
def test_fused_nodes_are_those_that_the_compiler_fuses(proto: Proto, name: str) -> None:
    from graphopt.codegen.importing.importer import import_onnx
    from graphopt.codegen.lowering.fusion import find_regions

    body, expected = EPILOGUES[name]
    if "z =" not in body:
        body += " z = Neg (x)"
    model = proto(
        "float[1,16,8,8] x",
        "float[1,16,8,8] y, float[1,16,8,8] z",
        body,
        w=weight(16, 16, 1, 1),
        u=weight(16, 16, 1, 1),
        v=weight(16, 1, 1),
        q=weight(16, 8, 8),
    )
    graph = gs.import_onnx(model)
    for node in graph.nodes:
        node.name = node.outputs[0].name
    layers = by_output(predict(graph, device()), graph)
    fused = {output for output, layer in layers.items() if layer.fused_into}
    assert fused == expected
    assert all(layers[output].ms == 0 for output in fused)

    module, node_of = import_onnx(to_proto(graph))
    main = module["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    regions = find_regions(bindings, list(bindings.pop().value.fields))
    theirs = {node_of.get(m.name) for r in regions for m in r.members}
    convolutions = {node.name for node in graph.nodes if node.op == "Conv"}
    assert fused == theirs - convolutions - {None}


def test_exponentials_in_an_epilogue_are_paid_for(proto: Proto) -> None:
    def ms(body: str) -> float:
        model = proto("float[1,64,32,32] x", "float[1,64,32,32] y", body, w=weight(64, 64, 1, 1))
        return total_ms(predict(gs.import_onnx(model), device()))

    plain = ms("y = Conv (x, w)")
    assert ms("c = Conv (x, w) y = Relu (c)") == plain
    assert ms("c = Conv (x, w) y = Sigmoid (c)") == pytest.approx(plain + 64 * 32 * 32 / 2e9 * 1e3)


def test_folding_batch_normalization_saves_nothing_that_a_compiler_does_not(proto: Proto) -> None:
    ones = weight(16)
    model = proto(
        "float[1,16,8,8] x",
        "float[1,16,8,8] y",
        "c = Conv (x, w) b = BatchNormalization (c, s, t, m, v) y = Relu (b)",
        w=weight(16, 16, 1, 1),
        **dict.fromkeys("stmv", ones),
    )
    conv, normalization, relu = predict(gs.import_onnx(model), device())
    assert normalization.fused_into == relu.fused_into == conv.node
    assert conv.ms > 0 == normalization.ms == relu.ms


def test_a_run_of_element_wise_nodes_is_one_kernel(proto: Proto) -> None:
    model = proto(
        "float[1,16,8,8] x, float[1,16,8,8] z",
        "float[1,32,8,8] y",
        "c = Concat <axis=1> (x, z) s = Sigmoid (c) y = Neg (s)",
    )
    graph = gs.import_onnx(model)
    concat, sigmoid, neg = predict(graph, device())
    assert (concat.ms > 0, sigmoid.ms, neg.ms) == (True, 0, 0)
    assert concat.bytes == 4 * 2 * 32 * 64
    assert sigmoid.fused_into == neg.fused_into == concat.node


def test_shapes_and_views_are_free(proto: Proto) -> None:
    model = proto(
        "float[1,16,8,8] x",
        "float[16,64] y",
        "s = Shape (x) t = Gather (s, i) u = Concat <axis=0> (t, j) y = Reshape (x, k)",
        i=np.array([1]),
        j=np.array([64]),
        k=np.array([16, 64]),
    )
    assert [layer.ms for layer in predict(gs.import_onnx(model), device())] == [0.0] * 4


@pytest.mark.assets
def test_of_lightweight_openpose_only_convolutions_are_left(
    lwop: Path,
) -> None:
    graph = load_model(lwop, {"data": (1, 3, 128, 128)})
    graph = run_pipeline(graph, parse_pipeline(PRESETS["exact"]), verify="off").graph
    layers = predict(graph, load_device("adreno-640"))
    kernels = [layer for layer in layers if layer.bound]
    assert sorted({layer.op for layer in kernels}) == ["Concat", "Conv", "Mul"]
    assert sum(layer.op == "Conv" for layer in kernels) == 58
    assert sum(layer.kind is LayerClass.DILATED for layer in kernels) == 5
    shapes = {n: tuple(t.shape or ()) for n, t in graph.tensors().items()}
    hosts = fused_into(graph, shapes)
    assert all(hosts[node].op == "Conv" for node in graph.nodes if node.op in ("Relu", "Elu"))


# --- graphopt inspect --device ------------------------------------------------------------------


@pytest.fixture
def pair(proto: Proto, tmp_path: Path) -> tuple[Path, Path]:
    """A dilated convolution, and the same without holes."""
    paths = tmp_path / "dilated.onnx", tmp_path / "plain.onnx"
    for path, reach in zip(paths, (2, 1), strict=True):
        body = (
            f"y = Conv <dilations=[{reach},{reach}], pads=[{reach},{reach},{reach},{reach}]> (x, w)"
        )
        model = proto("float[1,32,64,64] x", "float[1,32,64,64] y", body, w=weight(32, 32, 3, 3))
        onnx.save(model, path)
    return paths


def test_inspect_predicts_layers_and_the_total(pair: tuple[Path, Path]) -> None:
    profile = load_device("adreno-640")
    (shown,) = inspect_models([pair[0]], device=profile)
    expected = predict(load_model(pair[0]), profile)
    assert shown.latency
    assert shown.latency.ms == total_ms(expected) > 0
    assert [layer.ms for layer in shown.layers if isinstance(layer, PricedLayer)] == [
        layer.ms for layer in expected
    ]
    assert inspect_models([pair[0]])[0].latency is None


def test_inspect_shows_the_change_on_the_command_line(pair: tuple[Path, Path]) -> None:
    a, b = map(str, pair)
    told = CliRunner().invoke(app, ["inspect", a, b, "--device", "adreno-640"])
    assert told.exit_code == 0
    before, after = (total_ms(predict(load_model(p), load_device("adreno-640"))) for p in pair)
    assert f"{after:.1f} ({after / before - 1:+.1%})" in told.output
    assert "extrapolated" in told.output, "what the profile does not know is said"
    told = CliRunner().invoke(app, ["inspect", a, "--device", "adreno-640", "--json"])
    assert json.loads(told.output)["latency"]["ms"] == pytest.approx(before)


def test_inspect_refuses_an_unknown_device(pair: tuple[Path, Path]) -> None:
    told = CliRunner().invoke(app, ["inspect", str(pair[0]), "--device", "abacus"])
    assert isinstance(told.exception, InputError)


# --- graphopt profile ---------------------------------------------------------------------------


def measured_device() -> Device:
    """A device such as `graphopt profile` describes: every fitted rate, and no Winograd."""
    values = {
        "dense": 40.0,
        "dilated": 20.0,
        "pointwise": 50.0,
        "depthwise": 5.0,
        "depthwise_large": 15.0,
        "exponential": 0.4,
        "exponential_alone": 0.1,
        "reduction": 0.3,
        "resize": 0.2,
        "bandwidth": 5.0,
    }
    rates = {kind: {"value": rate, "source": "made up"} for kind, rate in values.items()}
    return device(winograd_channels=None, rates=rates)


def test_the_calibration_network_has_every_class(tmp_path: Path) -> None:
    onnx.checker.check_model(to_proto(calibration_network()), full_check=True)
    kernels = work_of(calibration_network(), measured_device())
    kinds = {kind for work in kernels for kind, amount in work.amounts().items() if amount}
    assert kinds == set(FITTED)


def test_a_fit_finds_the_device_that_the_times_are_of() -> None:
    truth = measured_device()
    kernels = work_of(calibration_network(), truth)
    rng = np.random.default_rng(0)
    pairs = [(work, time_of(work, truth)[0] * rng.uniform(0.95, 1.05)) for work in kernels]
    found = fit(pairs, truth, "a test")
    assert found.error < 0.05
    assert found.kernels == len(kernels)
    for kind in FITTED:
        assert found.device.rates[kind].value == pytest.approx(truth.rates[kind].value, rel=0.1)
        assert found.device.rates[kind].source.startswith("a test: fit to ")


def test_launches_find_their_nodes(proto: Proto) -> None:
    model = proto(
        "float[1,16,8,8] x",
        "float[1,32,8,8] y, float[1,16,4,4] z",
        "c = Conv (x, w) b = Concat <axis=1> (x, c) y = Sigmoid (b)"
        "z = MaxPool <kernel_shape=[2,2], strides=[2,2]> (c)",
        w=weight(16, 16, 1, 1),
    )
    graph = gs.import_onnx(model)
    graph.nodes[0].name = "conv"
    times = [
        LayerTime("pack", "pack", 9.0, 0),
        LayerTime("conv", "conv_1x1_0", 1.0, 16 * 16 * 64),
        LayerTime("max_pool2d", "max_pool2d", 2.0, 0),
        LayerTime("fused_concatenate_sigmoid", "fused_concatenate_sigmoid", 3.0, 0),
        LayerTime("unpack", "unpack", 9.0, 0),
    ]
    kernels = work_of(graph, device())
    assert {w.node.op: ms for w, ms in matched(kernels, times)} == {
        "Conv": 1.0,
        "MaxPool": 2.0,
        "Concat": 3.0,
    }
    # Two launches for one node: which is which cannot be told, so neither is believed.
    twice = [*times, LayerTime("max_pool2d", "max_pool2d_1", 4.0, 0)]
    assert {w.node.op for w, _ in matched(kernels, twice)} == {"Conv", "Concat"}


def test_a_profile_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    for profile in (measured_device(), device(unknown=('the "moon"',))):
        write_device(profile, path)
        assert load_device(path) == profile
    write_device(load_device("mali-g76-mp12"), path)
    assert replace(load_device(path), name="mali-g76-mp12") == load_device("mali-g76-mp12")


def test_profiling_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "CHAINS", ((16, 24, 24),))
    monkeypatch.setattr(calibrating, "STEMS", ())
    tried = [*candidates(CompileOptions()), "float16"]  # which no CPU computes in
    monkeypatch.setattr(device_profile, "candidates", lambda _: tried)
    path = tmp_path / "here.toml"
    told = CliRunner().invoke(app, ["profile", "-o", str(path), "--threads", "1"])
    assert told.exit_code == 0, told.output
    here = load_device(path)
    assert set(here.rates) == set(LayerClass)
    assert here.lanes in (8, 16)
    assert "--target cpu --threads 1" in here.bandwidth.source
    assert "mean error" in told.output
    assert here.precisions["int8"][LayerClass.DENSE].value > 0
    assert set(here.precisions) == {"int8", *tried} - {"float32", "float16"}
    assert len(here.unknown) == 1
    assert here.unknown[0].startswith("float16: ")
    assert f"not measured: {here.unknown[0]}" in told.output


def test_only_this_machine_can_be_profiled(tmp_path: Path) -> None:
    path = tmp_path / "phone.toml"
    told = CliRunner().invoke(app, ["profile", "-o", str(path), "--device", "phone"])
    assert isinstance(told.exception, UsageError)
    assert not path.exists()
