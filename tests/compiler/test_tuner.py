"""Measured kernels: a tuning file is made, obeyed by the compiler, refused where it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.codegen.jobs import tuning_candidates as tuning
from graphopt.codegen.jobs.records import Tuned
from graphopt.codegen.kernels.conv import choice as kernel_choice
from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.targets import load_target
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions, TuneOptions
from graphopt.compiler.tuner import tune
from graphopt.compiler.tuning_cache import (
    Tuning,
    find_tuning,
    read_tuning,
    tuning_path,
    write_tuning,
)
from graphopt.errors import InputError
from graphopt.ir.block_structure import Block
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.opencl import device_name

SPEC = ConvSpec((16,), 16, (12, 20), (3, 3), pads=(1, 1, 1, 1))
POINTWISE = ConvSpec((16,), 16, (12, 20))
SAVED = Tuned(kernel="conv_dense", tile=(1, 9, 1), work_group=1)


def write_network(path: Path, spec: ConvSpec) -> Path:
    """Two convolutions as specified, and a pointwise one of more filters."""
    side = spec.kernel[0]
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,16,12,20] x) => (float[1,40,12,20] y)
        {{
            a = Conv<pads=[{",".join(map(str, spec.pads))}]>(x, w)
            b = Conv<pads=[{",".join(map(str, spec.pads))}]>(a, w)
            y = Conv(b, p)
        }}"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w": (16, 16, side, side), "p": (40, 16, 1, 1)}.items():
        values = rng.standard_normal(shape).astype(np.float32) / 8
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


@pytest.fixture
def pointwise(tmp_path: Path) -> Path:
    """A network with few candidates to measure."""
    return write_network(tmp_path / "pointwise.onnx", POINTWISE)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network that several algorithms can compute."""
    return write_network(tmp_path / "network.onnx", SPEC)


def choice_of(kernel: str) -> Tuned:
    """A way to compute `SPEC` by that kernel, which is not the first one in line."""
    choices = kernel_choice.candidates(SPEC, load_target("cpu"))
    last = [c for c in choices if c.kernel == kernel][-1]
    return Tuned(kernel=kernel, tile=last.tile, work_group=last.work_group)


def kernels_of(bundle: Path) -> list[str]:
    """The templates that a bundle's convolutions are computed by, in order."""
    launches = read_bundle(bundle).plan.launches
    return [step.kernel.rpartition("_")[0] for step in launches if step.macs]


@pytest.mark.parametrize("target", ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)])
def test_what_is_measured_is_taken(target: str, pointwise: Path, tmp_path: Path) -> None:
    file, results = tune(
        pointwise, output=tmp_path / "tuning.json", options=TuneOptions(target=target, threads=1)
    )
    found = read_tuning(file, target)
    assert [result.count for result in results] == [2, 1]
    assert len(found.layers) == 2
    assert found.layers[POINTWISE.key] == results[0].after
    assert all(0 < r.after.ms <= r.before.ms for r in results)
    assert found.device == device_name(target)
    compile_model(pointwise, tmp_path / "bundle", CompileOptions(target=target, tuning=str(file)))


def test_more_networks_are_added_to_a_file(pointwise: Path, tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    write_tuning(Tuning(target="cpu", device="", layers={"another": SAVED}), file)
    tune(pointwise, output=file, options=TuneOptions(threads=1))
    layers = read_tuning(file, "cpu").layers
    assert len(layers) == 3
    assert layers["another"] == SAVED


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (choice_of("conv_dense"), "conv_dense"),
        (choice_of("conv_winograd"), "conv_winograd"),
        # Written by another version: that kernel is gone, and this one has no such tile now.
        (replace(SAVED, kernel="conv_fft"), "conv_dense"),
        (replace(choice_of("conv_winograd"), tile=(7, 3, 4)), "conv_dense"),
    ],
)
def test_the_compiler_obeys(choice: Tuned, expected: str, network: Path, tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    write_tuning(Tuning(target="cpu", device="", layers={SPEC.key: choice}), file)
    compile_model(network, tmp_path / "bundle", CompileOptions(tuning=str(file)))
    assert kernels_of(tmp_path / "bundle")[:2] == [expected, expected]


@pytest.mark.parametrize("name", ["cpu", "opencl"])
def test_each_algorithm_is_measured_and_the_usual_choice_first(name: str) -> None:
    target = load_target(name)
    choices = tuning.to_measure(SPEC, target)
    assert choices[0] == kernel_choice.candidates(SPEC, target)[0]
    algorithms = {(choice.kernel, choice.tile.square) for choice in choices}
    assert algorithms == {("conv_dense", 1), ("conv_winograd", 2), ("conv_winograd", 4)}
    assert len(set(choices)) == len(choices)
    assert len({choice.work_group for choice in choices}) == (1 if name == "cpu" else 5)


def test_convolutions_that_differ_have_different_keys() -> None:
    others = [
        ConvSpec((8, 8), 16, (12, 20), (3, 3), pads=(1, 1, 1, 1)),
        ConvSpec((16,), 16, (20, 12), (3, 3), pads=(1, 1, 1, 1)),
        ConvSpec((16,), 16, (12, 20), (3, 3), pads=(0, 1, 1, 1)),
        ConvSpec((16,), 16, (12, 20), (3, 3), pads=(1, 1, 1, 1), groups=16),
    ]
    assert len({spec.key for spec in [SPEC, *others]}) == 5


def test_where_a_tuning_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_tuning("auto", "cpu") is None
    tuning_file = Tuning(target="cpu", device="this one", layers={"k": SAVED})
    write_tuning(tuning_file, tuning_path("cpu", device_name("cpu")))
    assert find_tuning("auto", "cpu") == tuning_file
    assert find_tuning("off", "cpu") is None
    write_tuning(tuning_file, tmp_path / "mine.json")
    assert find_tuning(str(tmp_path / "mine.json"), "cpu") == tuning_file


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        ("{}", "is no tuning file: target: Field required"),
        ("not json", "is no tuning file"),
        ('{"format": 99, "target": "cpu", "device": "", "layers": {}}', "format 99"),
        ('{"target": "opencl", "device": "", "layers": {}}', "is for target opencl"),
    ],
)
def test_wrong_files_are_refused(content: str | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_tuning(file, "cpu")


def command(*arguments: object) -> Sequence[str]:
    """A command's lines on stdout."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_commands(pointwise: Path, tmp_path: Path) -> None:
    file, bundle = tmp_path / "tuning.json", tmp_path / "bundle"
    lines = command("tune", pointwise, "-o", file, "--threads", 1)
    assert str(file) in lines[-1]
    assert "in float32" in lines[-1]
    assert "instead of" in lines[-1]
    # The second convolution is like the first.
    assert len(lines) == 2 + 2 + 1
    told = command("compile", pointwise, "-o", bundle, "--tuning", file)
    assert any(line.startswith("kernels as measured on") for line in told)
    told = command("compile", pointwise, "-o", bundle, "--tuning", "off")
    assert not any("measured" in line for line in told)


def test_sparse_kernels_are_measured_with_indices_of_their_own(tmp_path: Path) -> None:
    path = write_network(tmp_path / "dense.onnx", POINTWISE)
    model = onnx.load(path)
    (w,) = (tensor for tensor in model.graph.initializer if tensor.name == "w")
    weight = onnx.numpy_helper.to_array(w).copy()
    weight[:8, :12] = 0
    w.CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)
    file, results = tune(path, output=tmp_path / "tuning.json", options=TuneOptions(threads=1))
    assert len(results) == 2
    (key,) = (key for key in read_tuning(file, "cpu").layers if "block=" in key)
    assert "kept=5" in key
    made = tuning.to_measure(replace(POINTWISE, block=Block(8, 4), kept=5), load_target("cpu"))
    assert kernel_choice.SPARSE in {choice.kernel for choice in made}
