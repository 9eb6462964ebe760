"""Kernels that were compiled before: keeping them changes no bundle, and stops no compiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tvm.tirx.script import builder

from graphopt.codegen.kernels.emit import argument, grid, kernel
from graphopt.codegen.linking import kernel_cache
from graphopt.codegen.linking.machine_code import tvm_target
from graphopt.codegen.targets import load_target
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions

CPU = tvm_target(load_target("cpu"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that kernels are kept in."""
    monkeypatch.setenv(kernel_cache.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def doubled(size: int, name: str = "k") -> Any:
    """A kernel that doubles numbers."""
    with kernel(name) as get:
        x, y = argument("x", (size,), "float32"), argument("y", (size,), "float32")
        with grid(load_target("cpu"), size) as (i,):
            builder.buffer_store(y, x[i] * 2, [i])
    return get()


def code(
    function: Any, content: bytes = b"code", what: str = "object", target: Any = CPU
) -> tuple[bytes, bool]:
    """A kernel's code, and whether it was made."""
    made = []

    def make() -> bytes:
        made.append(what)
        return content

    return kernel_cache.made_once(what, function, target, make), bool(made)


def test_a_kernel_is_made_once(folder: Path) -> None:
    assert code(doubled(8), b"eight") == (b"eight", True)
    assert code(doubled(8), b"another") == (b"eight", False)
    assert code(doubled(9), b"nine") == (b"nine", True)
    assert code(doubled(8, "m"), b"named") == (b"named", True)
    assert code(doubled(8), b"text", what="OpenCL C") == (b"text", True)
    gpu = tvm_target(load_target("opencl"))
    assert code(doubled(8), b"device", target=gpu) == (b"device", True)
    assert len([*folder.iterdir()]) == 5


def test_damage_is_mended(folder: Path) -> None:
    code(doubled(8))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole + b"x", whole[:40] + b"\0" + whole[41:], whole[:8]):
        file.write_bytes(damaged)
        assert code(doubled(8)) == (b"code", damaged != whole)
        assert file.read_bytes() == whole
        assert [*folder.iterdir()] == [file]


def test_what_makes_kernels_is_part_of_the_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code(doubled(8))
    monkeypatch.setattr(kernel_cache, "_makers", lambda: "another version")
    assert code(doubled(8), b"new") == (b"new", True)
    assert code(doubled(8), b"newer") == (b"new", False)


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(kernel_cache.VARIABLE, "")
    assert code(doubled(8))[1]
    assert code(doubled(8))[1]
    assert not [*tmp_path.iterdir()]
    monkeypatch.delenv(kernel_cache.VARIABLE)
    assert code(doubled(8))[1]
    assert not code(doubled(8))[1]
    assert len([*(tmp_path / "cache" / "graphopt" / "kernels").iterdir()]) == 1


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(kernel_cache.VARIABLE, str(tmp_path / "file"))
    assert code(doubled(8)) == (b"code", True)
    kernel_cache.tidy()
    assert (tmp_path / "file").read_text() == "no folder"


def test_what_was_not_used_for_longest_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (4, 5, 6):
        code(doubled(size), bytes(100))
    for age, file in enumerate(folder.iterdir()):
        os.utime(file, (age, age))
    assert not code(doubled(4))[1]  # used just now
    kernel_cache.tidy()
    assert len([*folder.iterdir()]) == 3
    monkeypatch.setattr(kernel_cache, "LIMIT", 300)
    kernel_cache.tidy()
    assert len([*folder.iterdir()]) == 2
    assert not code(doubled(4))[1]
    monkeypatch.setattr(kernel_cache, "LIMIT", 200)
    kernel_cache.tidy()
    assert not code(doubled(4))[1]
    assert code(doubled(5))[1]
    assert code(doubled(6))[1]


def test_several_at_once(folder: Path) -> None:
    functions = [doubled(size) for size in (4, 5) * 8]
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda function: code(function, bytes(1 << 20))[0], functions)]
    assert set(found) == {bytes(1 << 20)}
    assert len([*folder.iterdir()]) == 2


@pytest.mark.parametrize("target", ["cpu", "opencl", "adreno"])
def test_bundles_are_the_same_with_it_and_without(
    folder: Path,
    proto: Callable[..., onnx.ModelProto],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 8, 3, 3)).astype(np.float32)
    body = "c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) y = Add(r, x) z = GlobalAveragePool(r)"
    outputs = "float[1,8,12,10] y, float[1,8,1,1] z"
    onnx.save(proto("float[1,8,12,10] x", outputs, body, w=weight), tmp_path / "net.onnx")

    def bundle(name: str) -> dict[str, bytes]:
        compile_model(tmp_path / "net.onnx", tmp_path / name, CompileOptions(target=target))
        return {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}

    first = bundle("first")
    kept = {file: file.read_bytes() for file in folder.iterdir()}
    assert len(kept) >= 3
    assert bundle("again") == first
    assert {file: file.read_bytes() for file in folder.iterdir()} == kept
    for file in kept:  # if these were not read, bundles could not fail to be the same
        file.write_bytes(file.read_bytes()[::-1])
    assert bundle("damaged") == first
    monkeypatch.setenv(kernel_cache.VARIABLE, "")
    assert bundle("without") == first
