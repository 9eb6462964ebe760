"""What convolutions compute in: `compile --precision`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from quantised_networks import quantise

from graphopt.analysis.latency.device import Device, Figure, LayerClass
from graphopt.bench.profile_file import write_device
from graphopt.codegen.targets import cpu
from graphopt.compiler import auto_precision
from graphopt.compiler.compile import Compilation, compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.compiler.precision import check_precision, told_precision, with_precision
from graphopt.errors import CheckFailed, InputError, UsageError
from graphopt.ir.onnx_io import load_model
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.cpu import cpu_features
from graphopt.runtime.precision import bundle_precision

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
    for said in ({"precision": "float32"}, {"bf16": True}, {"fp16_arithmetic": True}):
        with pytest.raises(UsageError, match="--device is for --precision auto"):
            check_precision(CompileOptions(device="adreno-640", **said))
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


AMX = {"avx512f", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"}


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """on_cpu(features, times): the CPU, and how fast bfloat16 is predicted to be on those known."""

    def pretend(features: set[str], times: float) -> None:
        known = profile(tmp_path / "known.toml", bfloat16=100 * times)
        monkeypatch.setattr(auto_precision, "KNOWN_CPUS", {"amx_bf16": known})
        monkeypatch.setattr(cpu, "cpu_features", lambda: features)

    return pretend


class Compiler:
    """Stands in for the compiler: notes what it is asked for, and does not like bfloat16."""

    def __init__(self, fault: Exception | str | None = None) -> None:
        self.fault = fault
        self.asked: list[CompileOptions] = []

    def __call__(self, _: Path, options: CompileOptions, progress: object) -> Any:
        self.asked.append(options)
        low = options.precision == "bfloat16"
        if low and isinstance(self.fault, Exception):
            raise self.fault
        return SimpleNamespace(difference=self.fault if low and self.fault else 0.01)


@pytest.mark.parametrize(
    ("features", "times", "asked"),
    [
        (AMX, 3.0, "bfloat16"),
        (AMX, 1.2, None),  # nothing to gain
        (AMX - {"amx_bf16"}, 3.0, None),  # products of two alone are not known to pay
        (AMX - {"amx_bf16", "avx512_bf16"}, 3.0, None),
        ({"avx2", "fma"}, 3.0, None),
        ({"asimd"}, 3.0, None),
    ],
)
def test_without_a_precision_bfloat16_is_taken_where_it_surely_pays(
    features: set[str], times: float, asked: str | None, floats: Path, on_cpu: Callable[..., None]
) -> None:
    on_cpu(features, times)
    compiling = Compiler()
    options = CompileOptions()
    done = auto_precision.compile_usual(compiling, floats, options, graph(floats), lambda _: None)
    assert [one.precision for one in compiling.asked] == [asked]
    assert bool(done[1]) == (asked is not None)
    if asked:
        assert done[1][0].startswith("precision bfloat16: this CPU has amx_bf16, and 3.0 times")
        assert "--precision float32" in done[1][0]


@pytest.mark.parametrize("fault", [CheckFailed("its outputs differ"), "its outputs differ"])
def test_bfloat16_that_is_not_checked_is_not_taken(
    fault: Any, floats: Path, on_cpu: Callable[..., None]
) -> None:
    on_cpu(AMX, 3.0)
    compiling = Compiler(fault)
    options = CompileOptions(on_fail="warn", calib=floats)
    _, said = auto_precision.compile_usual(
        compiling, floats, options, graph(floats), lambda _: None
    )
    assert [one.precision for one in compiling.asked] == ["bfloat16", "float32"]
    assert [one.on_fail for one in compiling.asked] == ["stop", "warn"]
    assert said[0].startswith("precision float32; no bfloat16: ")
    assert "its outputs differ" in said[0]


@pytest.mark.parametrize(
    "said",
    [
        {"precision": "float32"},
        {"precision": "auto"},
        {"device": "adreno-640"},
        {"bf16": True},
        {"fp16": True},
        {"host": "x86_64-linux-gnu"},
        {"cpu_features": "avx2"},
        {"cpu_levels": ("avx2",)},
        {"target": "opencl"},
        {"tuning": "kernels.json"},
    ],
)
def test_what_is_said_is_kept_to(said: dict[str, Any], floats: Path, integers: Path) -> None:
    assert auto_precision.is_left_open(CompileOptions(), graph(floats))
    assert not auto_precision.is_left_open(CompileOptions(**said), graph(floats))
    assert not auto_precision.is_left_open(CompileOptions(), graph(integers))


def test_a_device_alone_is_asked_for_its_fastest_precision(floats: Path, tmp_path: Path) -> None:
    device = profile(tmp_path / "phone.toml", float16=200.0)
    options = CompileOptions(target="opencl", device=device)
    found, (remark,) = with_precision(options, graph(floats))
    assert told_precision(found, graph(floats)) == "float16"
    assert "as predicted for phone" in remark


def test_a_network_that_gains_is_compiled_in_bfloat16(
    proto: Proto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "amx_bf16" not in cpu_features():
        pytest.skip("this CPU has no amx_bf16")
    monkeypatch.setattr(auto_precision, "KNOWN_CPUS", {"amx_bf16": "xeon-amx-1t"})
    rng = np.random.default_rng(0)
    model = proto(
        "float[1,128,40,40] x",
        "float[1,128,38,38] y",
        "y = Conv<dilations=[1,1]>(x, w)",
        w=rng.standard_normal((128, 128, 3, 3), dtype=np.float32) / 34,
    )
    onnx.save(model, tmp_path / "wide.onnx")
    for precision, told in ((None, "bfloat16"), ("float32", "float32")):
        options = CompileOptions(precision=precision)  # type: ignore[arg-type]
        done = compile_model(tmp_path / "wide.onnx", tmp_path / "b", options)
        assert done.precision == told
        assert bundle_precision(read_bundle(tmp_path / "b")) == told
        assert bool(done.remarks) == (told == "bfloat16")


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
