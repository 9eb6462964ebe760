"""Predictions for layers that do not compute in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from quantised_networks import quantise

from graphopt.analysis.inspection import inspect_models
from graphopt.analysis.latency.device import Device, Figure, LayerClass, Precision, load_device
from graphopt.analysis.latency.predict import LayerLatency, predict, time_of, total_ms
from graphopt.analysis.latency.work import work_of
from graphopt.bench.calibration_network import calibration_network, in_eight_bits
from graphopt.bench.profile_file import write_device
from graphopt.bench.profile_fit import fit_rates
from graphopt.errors import InputError
from graphopt.ir.edit import emit
from graphopt.ir.network import Network

Proto = Callable[..., onnx.ModelProto]
KINDS = (
    LayerClass.DENSE,
    LayerClass.DILATED,
    LayerClass.POINTWISE,
    LayerClass.DEPTHWISE,
    LayerClass.EXPONENTIAL,
)


def figure(value: float) -> Figure:
    return Figure(value=value, source="made up")


def device(precisions: dict[Precision, float] | None = None, **changes: Any) -> Device:
    """100 GFLOP/s in float32, others in other precisions; all else costs next to nothing."""
    fields: dict[str, Any] = {
        "name": "d",
        "description": "",
        "rates": dict.fromkeys(KINDS, figure(100)),
        "precisions": {
            name: {kind: figure(rate) for kind in KINDS[:4]}
            for name, rate in (precisions or {}).items()
        },
        "bandwidth": figure(1e9),
        "launch": figure(1e-9),
    }
    return Device(**(fields | changes))


@pytest.fixture
def quantised(proto: Proto, tmp_path: Path) -> Path:
    """Two convolutions of bytes with a pool between."""
    rng = np.random.default_rng(0)
    model = proto(
        "float[1,3,16,16] x",
        "float[1,8,8,8] y",
        """a = Conv<pads=[1,1,1,1]>(x, v) r = Relu(a)
           p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = Conv(p, w)""",
        v=np.float32(rng.standard_normal((8, 3, 3, 3))),
        w=np.float32(rng.standard_normal((8, 8, 1, 1))),
    )
    onnx.save(model, tmp_path / "floats.onnx")
    feeds = [{"x": rng.standard_normal((1, 3, 16, 16), dtype=np.float32)}]
    return quantise(tmp_path / "floats.onnx", tmp_path / "int8.onnx", feeds)


def layers(path: Path, profile: Device) -> dict[str, list[LayerLatency]]:
    """What is predicted, by the operator."""
    found: dict[str, list[LayerLatency]] = {}
    for layer in predict(gs.import_onnx(onnx.load(path)), profile):
        found.setdefault(layer.op, []).append(layer)
    return found


@pytest.mark.parametrize("rate", [400, 50])
def test_quantised_layers_run_at_the_rate_of_int8(rate: float, quantised: Path) -> None:
    found = layers(quantised, device({"int8": rate}))
    for conv in found["Conv"]:
        assert conv.precision == "int8"
        assert conv.ms == pytest.approx(2 * conv.macs / rate * 1e-6, rel=1e-3)
    # Where nothing is known of int8, as in float32, and that is said.
    plain = layers(quantised, device())
    assert {conv.precision for conv in plain["Conv"]} == {"float32"}
    assert plain["Conv"][0].ms == pytest.approx(found["Conv"][0].ms * rate / 100, rel=1e-3)
    (told,) = inspect_models([quantised], device=device())
    assert told.latency
    assert any("Int8" in gap for gap in told.latency.unknown)
    (told,) = inspect_models([quantised], device=device({"int8": rate}))
    assert told.latency
    assert not told.latency.unknown
    assert told.latency.by_precision == {
        "int8": pytest.approx(total_ms(found["Conv"])),
    }


def test_a_phone_may_be_slower_in_int8(proto: Proto) -> None:
    # Adreno 640 adds and multiplies integers by themselves, floats in one instruction.
    model = proto(
        "float[1,64,40,40] x",
        "float[1,64,40,40] y",
        "a = Conv(x, w) y = Conv(a, w)",
        w=np.random.default_rng(0).standard_normal((64, 64, 1, 1), dtype=np.float32),
    )
    network = Network.of(gs.import_onnx(model))
    phone = load_device("adreno-640")
    half = phone.computing_in("float16")
    assert half is not None
    floats, halves = (total_ms(predict(network, one)) for one in (phone, half))
    assert halves < floats < total_ms(predict(in_eight_bits(network), phone))


def test_zeros_cost_as_much_as_others_in_bfloat16() -> None:
    profile = device({"bfloat16": 100})
    low = profile.computing_in("bfloat16")
    assert low is not None
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((32, 32, 1, 1), dtype=np.float32)
    pruned = dense.copy()
    pruned[:, ::2] = 0

    def ms(weight: np.ndarray, device: Device) -> float:
        network = Network(opset=17)
        x = gs.Variable("x", np.float32, [1, 32, 16, 16])
        network.inputs.append(x)
        y = emit(network, "Conv", x, weight, out="y")
        y.dtype, y.shape = np.dtype(np.float32), [1, 32, 16, 16]
        network.outputs.append(y)
        return total_ms(predict(network, device))

    assert ms(pruned, profile) < 0.6 * ms(dense, profile)
    assert ms(pruned, low) == pytest.approx(ms(dense, low))


def test_traffic_is_counted_in_bytes(quantised: Path) -> None:
    found = layers(quantised, device({"int8": 400}))
    first, second = found["Conv"]
    # The input's bytes, the weights', and the output's after the Relu; a pool reads those.
    assert first.bytes == 3 * 16 * 16 + 8 * 3 * 3 * 3 + 8 * 16 * 16
    (pool,) = found["MaxPool"]
    assert pool.bytes == 8 * 16 * 16 + 8 * 8 * 8
    # The last one's bytes become floats in another kernel.
    assert second.bytes == 8 * 8 * 8 + 8 * 8 + 8 * 8 * 8
    assert found["DequantizeLinear"][-1].bytes == 5 * 8 * 8 * 8
    # But for the network's input, pairs have no kernels.
    assert sum(layer.bytes > 0 for layer in found["QuantizeLinear"]) == 1
    assert sum(layer.bytes > 0 for layer in found["DequantizeLinear"]) == 1


def test_winograds_algorithm_is_for_precisions_with_a_rate(proto: Proto) -> None:
    model = proto(
        "float[1,16,8,8] x",
        "float[1,16,8,8] y",
        "y = Conv<pads=[1,1,1,1]>(x, w)",
        w=np.zeros((16, 16, 3, 3), np.float32),
    )
    rates = {LayerClass.WINOGRAD: figure(300), **dict.fromkeys(KINDS, figure(100))}
    profile = device({"float16": 200}, rates=rates, winograd_channels=figure(8))
    half = profile.computing_in("float16")
    assert half is not None
    times = [total_ms(predict(gs.import_onnx(model), one)) for one in (profile, half)]
    assert times[1] / times[0] == pytest.approx(300 / 200, rel=1e-3)
    assert half.element_bytes == 2
    assert profile.computing_in("float32") is profile
    assert profile.computing_in("bfloat16") is profile.computing_in("int8") is None


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_a_fit_finds_the_rates_that_the_times_are_of(precision: Precision) -> None:
    network = calibration_network()
    rates = dict(zip(KINDS[:4], (400.0, 60.0, 800.0, 30.0), strict=True))
    plain = device(bandwidth=figure(40), launch=figure(2))
    truth = replace(plain, precisions={precision: {k: figure(v) for k, v in rates.items()}})
    if precision == "int8":
        network = in_eight_bits(network)
    own = truth if precision == "int8" else truth.computing_in(precision)
    assert own is not None
    kernels = work_of(network, own)
    assert {work.precision for work in kernels} >= {"int8" if precision == "int8" else "float32"}
    rng = np.random.default_rng(0)
    pairs = [(work, time_of(work, own)[0] * rng.uniform(0.95, 1.05)) for work in kernels]
    found, error = fit_rates(pairs, plain, precision, "a test")
    assert error < 0.05
    for kind, rate in rates.items():
        assert found[kind].value == pytest.approx(rate, rel=0.1)
        assert found[kind].source.startswith("a test: fit to ")
    assert not set(found) & {LayerClass.EXPONENTIAL, LayerClass.EXPONENTIAL_ALONE}


def test_a_profile_with_precisions_is_a_file(tmp_path: Path) -> None:
    # As on some phones, where int8 is slower than float16.
    told = device({"int8": 150, "float16": 200}, name="phone")
    write_device(told, tmp_path / "phone.toml")
    assert load_device(tmp_path / "phone.toml") == told
    text = (tmp_path / "phone.toml").read_text()
    assert "[precisions.int8.dense] # GFLOP/s" in text
    (tmp_path / "other.toml").write_text(text.replace("precisions.int8", "precisions.int4"))
    with pytest.raises(InputError, match="precisions"):
        load_device(tmp_path / "other.toml")
    (tmp_path / "other.toml").write_text(text.replace("precisions.int8", "precisions.float32"))
    with pytest.raises(InputError, match="its rates are `rates`"):
        load_device(tmp_path / "other.toml")
