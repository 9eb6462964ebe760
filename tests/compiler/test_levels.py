"""Bundles for several kinds of CPUs: what each level computes, what is shared, what is chosen."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from quantised_networks import quantise
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.codegen.hosts import FEATURES, ranked
from graphopt.compiler.compile import Compilation, compile_model
from graphopt.compiler.levels import levels_for
from graphopt.compiler.options import CompileOptions
from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.ir.arrays import Array
from graphopt.runtime import cpu
from graphopt.runtime.bundle import read_bundle, write_bundle
from graphopt.runtime.cpu import cpu_features, this_host
from graphopt.runtime.levels import LIMIT, Level, best_level
from graphopt.runtime.open import open_bundle

pytestmark = pytest.mark.usefixtures("compile_once")

Proto = Callable[..., onnx.ModelProto]
SHAPE = (1, 3, 18, 21)
X86, ARM = "x86_64-linux-gnu", "aarch64-linux-gnu"
BYTES = ("avx2", "avx512_vnni", "amx_int8")


@pytest.fixture
def floats(proto: Proto, tmp_path: Path) -> Path:
    """A network with a dense, a depthwise and a 1x1 convolution."""
    rng = np.random.default_rng(0)
    shapes = {"v": (64, 3, 3, 3), "d": (64, 1, 3, 3), "w": (64, 64, 1, 1), "b": (64,)}
    weights = {n: np.float32(rng.standard_normal(s) / 4) for n, s in shapes.items()}
    model = proto(
        f"float[{','.join(map(str, SHAPE))}] x",
        "float[1,64,18,21] y",
        """a = Conv<pads=[1,1,1,1]>(x, v, b) r = Relu(a)
           c = Conv<pads=[1,1,1,1], group=64>(r, d, b) s = Relu(c) y = Conv(s, w, b)""",
        **weights,
    )
    onnx.save(model, tmp_path / "floats.onnx")
    return tmp_path / "floats.onnx"


@pytest.fixture
def integers(floats: Path) -> Path:
    """The same, quantised."""
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal(SHAPE, dtype=np.float32)} for _ in range(3)]
    return quantise(floats, floats.with_name("integers.onnx"), feeds)


def compiled(model: Path, name: str, *levels: str, host: str = "", one: str = "") -> Compilation:
    """The network's bundle `name`, beside it, for levels or for one CPU's features."""
    if host and shutil.which("ld.lld") is None and importlib.util.find_spec("ziglang") is None:
        pytest.skip("there is no linker for other machines (pip install 'graphopt[android]')")
    options = CompileOptions(host=host, cpu_levels=levels, cpu_features=one)
    return compile_model(model, model.with_name(name), options)


def output(bundle: Path, level: str = "") -> bytes:
    """What a bundle gives for some input."""
    x: Array = np.random.default_rng(1).standard_normal(SHAPE, dtype=np.float32)
    return open_bundle(bundle, level=level).run({"x": x})["y"].tobytes()


def able(*names: str) -> list[str]:
    """Those levels that run here."""
    known = FEATURES["x86_64"]
    return [name for name in names if known[name] <= cpu_features()]


@pytest.mark.parametrize(
    ("network", "levels"), [("floats", ("avx2", "avx512f")), ("integers", BYTES)]
)
def test_each_level_computes_what_its_own_bundle_does(
    network: str,
    levels: tuple[str, ...],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, family = request.getfixturevalue(network), tmp_path / "family"
    done = compiled(model, "family", *levels, host=X86)
    assert [level.name for level in done.manifest.levels] == [*reversed(levels)]
    assert done.manifest.target.cpu_features == ("avx2", "fma")
    for level in done.manifest.levels:
        single = compiled(model, level.name, host=X86, one=level.name).manifest
        assert not single.levels
        kernels = (family / level.code).read_bytes()
        assert kernels == (tmp_path / level.name / "kernels.so").read_bytes()
        if level.name in able(*levels):
            wanted = output(tmp_path / level.name)
            assert output(family, level.name) == wanted
            monkeypatch.setenv(LIMIT, level.name)
            assert open_bundle(family).bundle.level == level
            assert output(family) == wanted
            monkeypatch.delenv(LIMIT)
    if here := able(*levels):
        assert open_bundle(family).bundle.level.name == here[-1]
        assert isinstance(done.difference, float)


def test_what_levels_have_in_common_is_stored_once(integers: Path, tmp_path: Path) -> None:
    family = tmp_path / "family"
    manifest = compiled(integers, "family", "asimd", "asimddp", "i8mm", host=ARM).manifest
    assert [level.name for level in manifest.levels] == ["i8mm", "asimddp", "asimd"]
    weights = [name for name in manifest.files if name.startswith("weights")]
    assert "weights.bin" in weights  # biases, and what the depthwise layer has
    sizes = []
    for level in manifest.levels:
        sizes.append(sum(manifest.files[name].bytes for name in level.weights))
        compiled(integers, level.name, host=ARM, one=level.name)
        assert sizes[-1] == read_bundle(tmp_path / level.name).manifest.files["weights.bin"].bytes
    assert sum(manifest.files[name].bytes for name in weights) < sum(sizes)
    with pytest.raises(Unsupported, match=f"compiled for {ARM}, and this is {this_host()}"):
        open_bundle(family)
    said = json.loads(CliRunner().invoke(app, ["inspect", str(family), "--json"]).stdout)
    assert said["precision"] == "int8"
    shown = {level["name"]: level for level in said["levels"]}
    assert shown["asimddp"]["features"] == ["asimd", "asimddp"]
    assert 0 < shown["asimd"]["shared_bytes"] < shown["asimd"]["bytes"]
    assert "asimddp, i8mm" in CliRunner().invoke(app, ["inspect", str(family)]).stdout


def test_levels_of_the_same_kernels_are_one(floats: Path, tmp_path: Path) -> None:
    done = compiled(floats, "family", "asimd", "asimddp", host=ARM)
    assert not done.manifest.levels
    assert done.manifest.target.cpu_features == ("asimd",)
    assert {"plan.json", "weights.bin", "kernels.so"} < done.manifest.files.keys()
    assert any("level asimddp is left out" in remark for remark in done.remarks)
    # As without levels: floats are computed by what every such CPU has.
    assert not compiled(floats, "plain", host=ARM).manifest.levels
    assert (tmp_path / "plain" / "kernels.so").read_bytes() == (
        tmp_path / "family" / "kernels.so"
    ).read_bytes()


LEVELS = [
    Level("best", ("a", "b", "amx_tile"), "plan-best.json", (), ""),
    Level("good", ("a", "b"), "plan-good.json", (), ""),
    Level("least", ("a",), "plan-least.json", (), ""),
]


@pytest.mark.parametrize(
    ("have", "name", "limit", "chosen"),
    [
        ("a b amx_tile", "", "", "best"),
        ("a b", "", "", "good"),
        ("a c", "", "", "least"),
        ("a b amx_tile", "", "good", "good"),
        ("a", "", "good", "least"),
        ("a b amx_tile", "least", "good", "least"),
    ],
)
def test_the_best_that_a_cpu_has_is_chosen(
    have: str, name: str, limit: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, limit)
    features = set(have.split())
    assert best_level(LEVELS, features, lambda _: True, name=name, what="b").name == chosen


def test_a_level_that_the_system_does_not_let_run_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise Unsupported("this system gives no use of the CPU's AMX")

    monkeypatch.setattr(cpu, "permit_tiles", refuse)
    have = {"a", "b", "amx_tile"}
    assert best_level(LEVELS, have, cpu._permitted, what="b").name == "good"


def test_a_cpu_that_fits_no_level_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unsupported) as refused:
        best_level(LEVELS[:2], {"b", "c"}, lambda _: True, what="pose.graphopt")
    assert refused.value.message == (
        "pose.graphopt has kernels for CPUs with a, b, amx_tile; or with a, b; this one has b"
    )
    with pytest.raises(Unsupported, match="this one has none of that"):
        best_level(LEVELS, {"c"}, lambda _: True, name="good", what="b")
    monkeypatch.setenv(LIMIT, "better")
    with pytest.raises(InputError, match=r"b has no level 'better' \(GRAPHOPT_CPU_LEVEL\)"):
        best_level(LEVELS, {"a"}, lambda _: True, what="b")


@pytest.mark.skipif(not able("avx2", "avx512f")[1:], reason="this CPU has no AVX-512")
def test_damage_of_any_level_is_found(floats: Path, tmp_path: Path) -> None:
    family = tmp_path / "family"
    compiled(floats, "family", "avx2", "avx512f")
    for name in ("plan-avx2.json", "weights-avx2.bin", "kernels-avx512f.so"):
        whole = (family / name).read_bytes()
        (family / name).write_bytes(whole[:-1])
        with pytest.raises(InputError, match=f"{name} is damaged"):
            read_bundle(family)
        (family / name).write_bytes(whole)
    manifest = json.loads((family / "manifest.json").read_text())
    for name in ("kernels-avx2.so", "weights-avx512f.bin"):
        files = {key: file for key, file in manifest["files"].items() if key != name}
        (family / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
        with pytest.raises(InputError, match=f"does not list {name}"):
            read_bundle(family)
    # What is there already is replaced, whatever its levels are called.
    compiled(floats, "family", one="avx2")
    assert not [*family.glob("*-avx512f*")]
    (family / "plan-mine.txt").touch()
    with pytest.raises(InputError, match=r"also holds plan-mine\.txt"):
        write_bundle(family, read_bundle(family).manifest, {})


def test_bundles_of_one_level_are_as_before(floats: Path, tmp_path: Path) -> None:
    compiled(floats, "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert "levels" not in manifest
    files = ["NOTICE", "kernels.so", "manifest.json", "plan.json", "weights.bin"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == files
    bundle = read_bundle(tmp_path / "b")
    assert bundle.level.features == bundle.manifest.target.cpu_features
    with pytest.raises(InputError, match="has no level 'avx2'"):
        open_bundle(tmp_path / "b", level="avx2")


def test_which_levels_pay() -> None:
    def levels(quantised: bool, **options: str) -> list[str]:
        return levels_for(CompileOptions(**options), quantised=quantised)  # type: ignore[arg-type]

    assert levels(True, host="aarch64-linux-android") == ["i8mm", "asimddp", "asimd"]
    assert levels(False, host="aarch64-linux-android") == ["asimd"]
    assert levels(True, host=X86) == ["amx_int8", "avx512_vnni", "avx_vnni", "avx2"]
    assert levels(False, host=X86) == ["avx512f", "avx2"]
    # This machine's own, or what was asked for, and of a GPU nothing.
    assert levels(True) == levels(True, host=X86, cpu_features="avx2") == []
    assert levels(True, target="opencl", host=ARM) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cpu_levels": ("avx2", "avx2"), "host": X86}, "names a level twice"),
        ({"cpu_levels": ("avx2", ""), "host": X86}, "a level has no name"),
        ({"cpu_levels": ("asimd", "avx2"), "host": ARM}, "no feature of .* is called 'avx2'"),
        ({"cpu_levels": ("avx2",), "cpu_features": "avx2", "host": X86}, "say the same twice"),
        ({"cpu_levels": ("avx2",), "target": "opencl", "host": X86}, "has no CPU kernels"),
    ],
)
def test_levels_that_cannot_be_are_sentences(
    options: dict[str, object], complaint: str, floats: Path
) -> None:
    given = CompileOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=complaint):
        compile_model(floats, floats.with_name("b"), given)


def test_levels_are_several_features() -> None:
    assert ranked(["avx2", "avx512f+avx_vnni", "avx512f"], X86) == [
        "avx512f+avx_vnni",
        "avx512f",
        "avx2",
    ]
