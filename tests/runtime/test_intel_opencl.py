"""OpenCL bundles on another implementation than PoCL: Intel's, which needs its context kept.

`pip install --target DIR intel-opencl-rt intel-cmplr-lib-rt` brings it; GRAPHOPT_INTEL_OPENCL names
the folder in which libintelocl.so is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphopt.runtime import opencl
from graphopt.runtime.open import open_bundle

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.onnx"
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.opencl import device_name
from graphopt.runtime.open import open_bundle
demo, bundle, tolerance = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
options = dict(option.split("=") for option in sys.argv[4:])
target = options.pop("target")
assert "Intel" in device_name(target) and "pthread" not in device_name(target)
shape = (1, 3, 128, 160)
given = CompileOptions(
    target=target, input_shape=("image:1,3,128,160",), **{name: True for name in options}
)
compile_model(demo, bundle, given)
feeds = {"image": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
expected = OnnxRuntimeEngine(demo).run(feeds)
runner = open_bundle(bundle)
for _ in range(2):
    for name, values in runner.run(feeds).items():
        assert np.abs(values - expected[name]).max() < tolerance * np.ptp(expected[name]), name
"""


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ("target=opencl", 1e-4),
        ("target=opencl fp16=1", 0.1),
        ("target=opencl fp16_arithmetic=1", 0.1),
        ("target=adreno", 0.1),
    ],
)
def test_on_intels(options: str, tolerance: float, tmp_path: Path) -> None:
    if not (folder := os.environ.get("GRAPHOPT_INTEL_OPENCL")):
        pytest.skip("GRAPHOPT_INTEL_OPENCL does not name a folder with Intel's OpenCL runtime")
    library = Path(folder) / "libintelocl.so"
    (tmp_path / "intel.icd").write_text(f"{library}\n")
    environment = os.environ | {
        "OCL_ICD_VENDORS": f"{tmp_path}/",
        "OCL_ICD_FILENAMES": str(library),
        "LD_LIBRARY_PATH": folder,
    }
    command = [sys.executable, "-c", PROGRAM, str(DEMO), str(tmp_path / "bundle"), str(tolerance)]
    done = subprocess.run(
        [*command, *options.split()], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


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
