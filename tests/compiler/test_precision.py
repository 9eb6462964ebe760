"""What convolutions compute in: `compile --precision`."""

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

from graphopt.analysis.latency.device import Device, Figure, LayerClass
from graphopt.bench.profile_file import write_device
from graphopt.compiler import auto_precision
from graphopt.compiler.compile import Compilation, compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.compiler.precision import check_precision, told_precision, with_precision
from graphopt.errors import CheckFailed, InputError, UsageError
from graphopt.ir.onnx_io import load_model
from graphopt.runtime.bundle import read_bundle

pytestmark = pytest.mark.usefixtures("compile_once")

Proto = Callable[..., onnx.ModelProto]
AUTO = CompileOptions(precision="auto")


@pytest.fixture
def floats(proto: Proto, tmp_path: Path) -> Path:
    w = np.float32(np.random.default_rng(0).standard_normal((8, 3, 3, 3)))
    model = proto("float[1,3,8,8] x", "float[1,8,6,6] y", "y = Conv(x, w)", w=w)
    onnx.save(model, tmp_path / "floats.onnx")
    return tmp_path / "floats.onnx"


@pytest.fixture
def integers(floats: Path, tmp_path: Path) -> Path:
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8), dtype=np.float32)
    return quantise(floats, tmp_path / "integers.onnx", [{"x": x}])


def graph(path: Path) -> gs.Graph:
    return load_model(path)


@pytest.mark.parametrize(
    ("asked", "halves", "low"),
    [("float32", False, ""), ("float16", True, "float16"), (None, False, "")],
)
def test_a_precision_stands_for_options(asked: Any, halves: bool, low: str, floats: Path) -> None:
    options = CompileOptions(target="opencl", precision=asked)
    chosen, remarks = with_precision(options, graph(floats))
    assert chosen.fp16_arithmetic is halves
    assert not chosen.bf16
    assert not remarks
    assert told_precision(chosen, graph(floats)) == (low or "float32")


@pytest.mark.parametrize("asked", ["auto", "int8", None])
def test_a_quantised_network_is_computed_in_int8(asked: Any, integers: Path) -> None:
    chosen, _ = with_precision(CompileOptions(precision=asked), graph(integers))
    assert told_precision(chosen, graph(integers)) == "int8"
    assert not auto_precision.is_measured(AUTO, graph(integers))


@pytest.mark.parametrize("target", ["cpu", "mali"])
def test_a_quantised_network_is_computed_in_floats_where_they_are_asked_for(
    target: str, integers: Path
) -> None:
    asked = CompileOptions(target=target, precision="float32")
    for options in (asked, CompileOptions(target=target, dequantize=True)):
        chosen, _ = with_precision(options, graph(integers))
        assert chosen.dequantize
        assert told_precision(chosen, graph(integers)) == "float32"
    as_it_is, _ = with_precision(CompileOptions(target=target), graph(integers))
    assert told_precision(as_it_is, graph(integers)) == "int8"


def test_precisions_that_cannot_be_are_sentences(floats: Path, integers: Path) -> None:
    with pytest.raises(UsageError, match="is quantised: it is computed in int8, not in bfloat16"):
        with_precision(CompileOptions(precision="bfloat16"), graph(integers))
    with pytest.raises(UsageError, match="int8 is for quantised networks") as refused:
        with_precision(CompileOptions(precision="int8"), graph(floats))
    assert "graphopt optimize --int8" in (refused.value.hint or "")
    with pytest.raises(UsageError, match="what --bf16 and --fp16-arithmetic say"):
        check_precision(CompileOptions(precision="float32", bf16=True))
    with pytest.raises(UsageError, match="--device is for --precision auto"):
        check_precision(CompileOptions(device="adreno-640"))
    with pytest.raises(InputError, match="no arithmetic in bfloat16"):
        with_precision(CompileOptions(precision="bfloat16", target="opencl"), graph(floats))


def profile(path: Path, **rates: float) -> str:
    """A device of 100 GFLOP/s in float32, as a file."""

    def figure(value: float) -> Figure:
        return Figure(value=value, source="made up")

    kinds = [kind for kind in LayerClass if kind is not LayerClass.WINOGRAD]
    device = Device(
        name="phone",
        description="",
        rates=dict.fromkeys(kinds, figure(100)),
        precisions={name: dict.fromkeys(kinds, figure(r)) for name, r in rates.items()},  # type: ignore[misc]
        bandwidth=figure(1e6),
        launch=figure(1e-6),
    )
    write_device(device, path)
    return str(path)


@pytest.mark.parametrize(
    ("rates", "chosen", "told"),
    [
        ({"float16": 200.0}, "float16", "float16, as predicted for phone: "),
        ({"float16": 50.0}, "float32", "float32, as predicted for phone: "),
        ({}, "float32", "nothing is known of float16"),
    ],
)
def test_auto_takes_what_a_device_is_predicted_fastest_in(
    rates: dict[str, float], chosen: str, told: str, floats: Path, tmp_path: Path
) -> None:
    device = profile(tmp_path / "phone.toml", **rates)
    options = replace(AUTO, target="opencl", device=device)
    found, (remark,) = with_precision(options, graph(floats))
    assert told_precision(found, graph(floats)) == chosen
    assert told in remark


def test_auto_for_a_machine_that_nothing_is_known_of(floats: Path) -> None:
    options = replace(AUTO, host="aarch64-linux-android")
    assert not auto_precision.is_measured(options, graph(floats))
    found, (remark,) = with_precision(options, graph(floats))
    assert told_precision(found, graph(floats)) == "float32"
    assert "name its profile by --device" in remark


def test_auto_takes_what_is_measured_fastest_of_what_passes_its_checks(
    floats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_precision, "candidates", lambda _: ["float32", "bfloat16", "float16"])

    def compiling(
        bundle: Path, options: CompileOptions, progress: Callable[[str], None]
    ) -> Compilation:
        if options.precision == "float16":
            raise CheckFailed("its outputs differ")
        done = compile_model(floats, bundle, CompileOptions(), progress=progress)
        return replace(done, precision=options.precision or "")

    place = tmp_path / "b"
    for bfloat16, chosen in ((1.0, "bfloat16"), (3.0, "float32")):
        times = {"float32": 2.0, "bfloat16": bfloat16}
        monkeypatch.setattr(auto_precision, "measured", lambda _, times=times: times)
        done, said = auto_precision.compile_fastest(compiling, place, AUTO, lambda _: None)
        assert done.precision == chosen
        assert said[0].startswith(f"precision {chosen}, as measured here: 2.0 ms in float")
        assert said[1] == "float16 is left out: its outputs differ"
        assert read_bundle(place).manifest == done.manifest


def test_auto_prepares_a_network_once(
    floats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    measured = dict.fromkeys(auto_precision.candidates(AUTO), 1.0)
    monkeypatch.setattr(auto_precision, "measured", lambda _: measured)
    done = compile_model(floats, tmp_path / "b", AUTO, progress=told.append)
    assert done.precision == "float32"
    assert sum("cleaning the graph" in what for what in told) == 1


def test_measuring_runs_each_bundle(floats: Path, tmp_path: Path) -> None:
    compile_model(floats, tmp_path / "b", CompileOptions(precision="float32"))
    found = auto_precision.measured({"float32": tmp_path / "b"})
    assert found["float32"] > 0
