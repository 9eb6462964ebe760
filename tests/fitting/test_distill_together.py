"""Training by several processes, as torchrun starts them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from known import values_of
from noise_lessons import calibration_on_noise

from graphopt.errors import InputError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.distill_options import DistillOptions, leads
from graphopt.ir.onnx_io import load_model

pytest.importorskip("torch", reason="PyTorch is not installed (extra [distill])")

from graphopt.fitting.distill import distill
from graphopt.fitting.processes import joined

OPTIONS = DistillOptions(
    steps=24, batch=4, crop=32, rate=2e-2, warm_up=5, check_every=8, precision="float32"
)
WORKER = """
import os, pickle, signal, sys
from pathlib import Path
from graphopt.fitting.distill import distill
from graphopt.ir.onnx_io import load_model, save_model

folder, dies = Path(sys.argv[1]), len(sys.argv) > 2
calibration, options = pickle.loads((folder / "lesson").read_bytes())

def progress(line):
    if dies and os.environ["RANK"] == "1" and "distill: 13 of" in line:
        if not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if os.environ["RANK"] == "0":
        with (folder / "log").open("a") as log:
            log.write(line + "\\n")

student, teacher = (load_model(folder / f"{name}.onnx") for name in ("student", "teacher"))
result, report = distill(
    student, teacher, calibration, options, checkpoint=folder / "state.pt", progress=progress
)
if os.environ["RANK"] == "0":
    save_model(result, folder / "trained.onnx")
    (folder / "report").write_bytes(pickle.dumps(report))
"""


@pytest.fixture
def lesson(
    proto: Callable[..., onnx.ModelProto], tmp_path: Path
) -> tuple[gs.Graph, gs.Graph, Calibration]:
    """A student, its teacher, and photos; also as files in `tmp_path`."""
    rng = np.random.default_rng(0)
    body = "a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1) r = Relu(a) y = Conv(r, w2)"
    for name in ("teacher", "student"):
        w = {
            "w1": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
            "w2": rng.standard_normal((19, 8, 1, 1)).astype(np.float32) / 3,
        }
        onnx.save(
            proto("float[1,3,h,v] x", "float[1,19,p,q] y", body, **w), tmp_path / f"{name}.onnx"
        )
    student, teacher = (load_model(tmp_path / f"{name}.onnx") for name in ("student", "teacher"))
    calibration = calibration_on_noise(tmp_path, teacher, rng)
    (tmp_path / "lesson").write_bytes(pickle.dumps((calibration, OPTIONS)))
    (tmp_path / "worker.py").write_text(WORKER)
    return student, teacher, calibration


def torchrun(folder: Path, *options: str, dies: bool = False) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = [str(folder / "worker.py"), str(folder), *(["dies"] if dies else [])]
    done = subprocess.run(
        [*command, *options, *worker], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def same_as_one(folder: Path, lesson: tuple[gs.Graph, gs.Graph, Calibration]) -> None:
    student, teacher, calibration = lesson
    expected, report = distill(student, teacher, calibration, OPTIONS)
    got = pickle.loads((folder / "report").read_bytes())
    assert got.steps == report.steps == 24
    assert got.after < 0.8 * got.before
    np.testing.assert_allclose((got.before, got.after), (report.before, report.after), rtol=1e-3)
    trained = load_model(folder / "trained.onnx").tensors()
    for name in ("w1", "w2"):
        values = values_of(expected.tensors()[name])
        np.testing.assert_allclose(
            values_of(trained[name]), values, atol=2e-3 * np.abs(values).max(), err_msg=name
        )


def test_two_processes_train_what_one_does(
    lesson: tuple[gs.Graph, gs.Graph, Calibration], tmp_path: Path
) -> None:
    torchrun(tmp_path)
    same_as_one(tmp_path, lesson)


def test_they_go_on_after_one_was_killed(
    lesson: tuple[gs.Graph, gs.Graph, Calibration], tmp_path: Path
) -> None:
    torchrun(tmp_path, "--max-restarts=1", dies=True)
    steps = [int(line.split()[1]) for line in (tmp_path / "log").read_text().splitlines()]
    assert steps.index(9, 9) >= 12  # from the checkpoint on, not from the first step
    assert steps.count(1) == 1
    same_as_one(tmp_path, lesson)


def test_a_batch_is_shared_evenly_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with (
        pytest.raises(InputError, match="8 crops cannot be shared evenly by 3"),
        joined("cpu", batch=8),
    ):
        pass


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="no cuda device"), joined("cuda", batch=8):
        pass


def test_the_first_process_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")
    assert leads()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not leads()
    monkeypatch.setenv("RANK", "0")
    assert leads()
