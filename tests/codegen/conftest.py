"""What tests of the device runner share: it and the demo network's bundles, made once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.ir.input_shapes import format_input_shapes

ROOT = Path(__file__).resolve().parents[2]
DEVICE = ROOT / "codegen" / "device"
SIDE = 1024
"""Most pixels of a photo's side that the bundles' kernels prepare; the demo's photo is larger."""
CROSS, SYSROOT = "aarch64-linux-gnu-g++", Path("/usr/aarch64-linux-gnu")


@pytest.fixture(scope="session")
def compiler() -> str:
    """The C++ compiler."""
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("there is no C++ compiler")
    return found


@pytest.fixture(scope="session")
def build(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """graphopt-run of a preset; built without CMake where that is missing."""

    @cache
    def make(preset: str) -> Path:
        folder = tmp_path_factory.mktemp(preset)
        sanitize = preset == "sanitize"
        if shutil.which("cmake"):
            command = ["cmake", "--preset", preset, "-S", DEVICE, "-B", folder]
            subprocess.run(command, check=True)
            subprocess.run(["cmake", "--build", folder, "--parallel", "2"], check=True)
            return folder / "graphopt-run"
        flags = ["-fsanitize=address,undefined", "-fno-sanitize=vptr"] if sanitize else []
        flags += ["-std=c++17", "-O2", "-fno-rtti", "-ffp-contract=off", "-pthread", "-ldl"]
        flags += ["-Wl,--export-dynamic-symbol=TVMFFIErrorSetRaisedFromCStrParts"]
        runner, used = folder / "graphopt-run", CROSS if preset == "linux-arm64" else compiler
        subprocess.run([used, *DEVICE.glob("*.cpp"), *flags, "-o", runner], check=True)
        return runner

    return make


@pytest.fixture(scope="session")
def runner(build: Callable[[str], Path]) -> Path:
    return build("host")


@pytest.fixture(scope="session")
def emulated(build: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """graphopt-run of 64-bit Arm Linux, in an emulator."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None or shutil.which(CROSS) is None:
        pytest.skip("no cross compiler or emulator (g++-aarch64-linux-gnu, qemu-user-static)")
    script = tmp_path_factory.mktemp("emulated") / "graphopt-run"
    script.write_text(f'#!/bin/sh\nexec {emulator} -L {SYSROOT} {build("linux-arm64")} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The demo network, compiled for a target, and by the options `host` and `size`."""

    @cache
    def make(target: str, host: str = "", size: tuple[int, int] = (256, 456)) -> Path:
        path = tmp_path_factory.mktemp(target) / "demo.graphopt"
        shapes = {"image": (1, 3, *size)}
        compile_model(
            ROOT / "examples" / "demo.onnx",
            path,
            CompileOptions(
                target=target, host=host, input_shape=format_input_shapes(shapes), max_photo=SIDE
            ),
        )
        return path

    return make
