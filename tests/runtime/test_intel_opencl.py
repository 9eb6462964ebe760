"""OpenCL bundles on another implementation than PoCL: Intel's, which needs its context kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from intel_opencl import IntelOpenCl

from graphopt.runtime import opencl
from graphopt.runtime.open import open_bundle

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.onnx"

COMPARED = """
import sys
from pathlib import Path
import numpy as np
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.opencl import device_name
from graphopt.runtime.open import open_bundle
network, shape, *variants = sys.argv[1:]
size = tuple(map(int, shape.partition(":")[2].split(",")))
feeds = {"image": np.random.default_rng(0).standard_normal(size).astype(np.float32)}
expected = OnnxRuntimeEngine(Path(network)).run(feeds)
assert "Intel" in device_name("opencl") and "pthread" not in device_name("opencl")
for variant in variants:
    target, bundle, tolerance, *options = variant.split()
    given = dict.fromkeys(options, True)
    compile_model(
        Path(network),
        Path(bundle),
        CompileOptions(target=target, input_shape=(shape,), post="none", max_photo=0, **given),
    )
    runner = open_bundle(Path(bundle))
    for _ in range(2):
        for name, values in runner.run(feeds).items():
            worst = np.abs(values - expected[name]).max() / np.ptp(expected[name])
            assert worst < float(tolerance), (variant, name, worst)
"""


def compare(intel: IntelOpenCl, network: Path, shape: str, *variants: str) -> None:
    """A network, compiled for targets, gives there what onnxruntime gives.

    Args:
        variants: a target, its bundle, the largest difference over the range, options.
    """
    done = intel.run("-c", COMPARED, str(network), shape, *variants)
    assert done.returncode == 0, done.stderr


@pytest.mark.intel_opencl
def test_every_target(
    intel: IntelOpenCl, proto: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)

    model = proto(
        "float[1,3,32,40] image",
        "float[1,24,16,20] maps",
        """a = Conv<strides=[2,2], pads=[1,1,1,1]>(image, w1)
           b = Relu(a)
           c = Conv<group=16, pads=[1,1,1,1]>(b, w2)
           d = Elu(c)
           e = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)
           f = Conv(e, w3)
           g = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(f, w4)
           h = Concat<axis=1>(b, g)
           i = Conv<pads=[1,1,1,1]>(h, w5)
           maps = Add(i, h)""",
        w1=weight(16, 3, 3, 3),
        w2=weight(16, 1, 3, 3),
        w3=weight(24, 16, 1, 1),
        w4=weight(24, 8, 4, 4),
        w5=weight(24, 24, 3, 3),
    )
    onnx.save(model, tmp_path / "n.onnx")
    variants = (
        ("mali", "1e-4", ""),  # it has the kernels of opencl
        ("adreno", "1e-4", ""),
        ("opencl", "0.01", "fp16"),
        ("opencl", "0.02", "fp16_arithmetic"),
    )
    compare(
        intel,
        tmp_path / "n.onnx",
        "image:1,3,32,40",
        *(f"{t} {tmp_path / f'{n}'} {e} {o}" for n, (t, e, o) in enumerate(variants)),
    )


@pytest.mark.intel_opencl
def test_a_pose_network_with_half_precision_in_arithmetic(
    intel: IntelOpenCl, tmp_path: Path
) -> None:
    variant = f"adreno {tmp_path / 'bundle'} 0.1 fp16_arithmetic"
    compare(intel, DEMO, "image:1,3,128,160", variant)


@pytest.mark.opencl
def test_the_context_is_kept(bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []
    context = opencl._context

    def observed(*arguments: Any) -> Any:
        new = context(*arguments)
        made.append(weakref.ref(new))
        return new

    path = bundle("opencl")
    monkeypatch.setattr(opencl, "_context", observed)
    runner = open_bundle(path)
    assert made[-1]() is not None
    del runner
