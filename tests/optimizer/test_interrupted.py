"""Pruning to a target takes long: what an interruption leaves behind, and how the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.errors import InputError
from graphopt.fitting import reconstruct
from graphopt.ir.onnx_io import load_model
from graphopt.optimizer import prune_to_target_pass as pruning
from graphopt.optimizer import sensitivity
from graphopt.optimizer.optimize import optimize
from graphopt.optimizer.options import OptimizeOptions, SensitivityOptions
from graphopt.optimizer.sensitivity import measure_file


@pytest.mark.parametrize(
    "stop_at", ["sensitivity: 2", "reconstruct: 3", "prune-to-target: the poses"]
)
def test_goes_on_to_the_same_bytes(pose_files, tmp_path, stop_at, monkeypatch):
    model, photos = pose_files
    whole, stopped = tmp_path / "whole.onnx", tmp_path / "again.onnx"

    def run(output, stop_at=None):
        told = []

        def progress(text):
            told.append(text)
            if stop_at and text.startswith(stop_at):
                raise KeyboardInterrupt

        optimize(
            model,
            output,
            OptimizeOptions(preset="exact", compression=1.5, calib=photos),
            progress=progress,
        )
        return told

    def calls(module, name):
        made = []
        true = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **o: made.append(a) or true(*a, **o))
        return made

    before = model.read_bytes()
    all_told = run(whole)
    work = tmp_path / "again.work"
    with pytest.raises(KeyboardInterrupt, match=r"the same command goes on from .*again\.work"):
        run(stopped, stop_at)
    assert not stopped.exists()
    assert model.read_bytes() == before
    load_model(work / "last-good.onnx")
    measured, solved = calls(pruning, "sensitivity"), calls(reconstruct.LeastSquares, "solve")
    told = run(stopped)
    if stop_at.startswith("sensitivity"):
        assert told == all_told
    else:
        assert not measured
        kept = 2 if stop_at.startswith("reconstruct") else 0
        assert len(solved) == sum(" of " in text and "reconstruct" in text for text in told) - kept
    plan = (str(tmp_path / "again.plan.json"), str(tmp_path / "whole.plan.json"))
    assert stopped.read_bytes().replace(*map(str.encode, plan)) == whole.read_bytes()
    assert not work.exists()


def test_what_is_not_the_run_s_own_stays(pose_files, tmp_path):
    model, photos = pose_files
    work = tmp_path / "net.opt.work"
    work.mkdir()
    (work / "diary.txt").write_text("dear")
    optimize(model, options=OptimizeOptions(passes="reconstruct", calib=photos))
    assert [file.name for file in work.iterdir()] == ["diary.txt"]


def by_ratios(photos: Path, *ratio: float) -> SensitivityOptions:
    return SensitivityOptions(calib=photos, ratio=ratio)


def test_sensitivity_goes_on_with_the_next_layer(pose_files, tmp_path, monkeypatch):
    model, photos = pose_files
    work = tmp_path / "found.sensitivity.work"
    fitted, told = [], []
    true = sensitivity._pruned
    monkeypatch.setattr(sensitivity, "_pruned", lambda *a, **o: fitted.append(a) or true(*a, **o))

    def run(work, stop_at=None):
        def progress(text):
            told.append(text)
            if stop_at and text.startswith(stop_at):
                raise KeyboardInterrupt

        fitted.clear()
        told.clear()
        return measure_file(model, by_ratios(photos, 0.25, 0.5), work=work, progress=progress)

    whole = run(None)
    layers = len(whole.layers)
    assert len(fitted) == layers >= 3
    with pytest.raises(
        KeyboardInterrupt, match=r"the same command goes on from .*sensitivity.work"
    ):
        run(work, "sensitivity: 3")
    assert len(fitted) == 2
    with pytest.raises(KeyboardInterrupt):
        run(work, "function blocks: 1")
    assert len(fitted) == layers - 2
    assert run(work) == whole
    assert not fitted
    assert len([text for text in told if text.startswith("sensitivity")]) == layers
    assert not work.exists()


def test_sensitivity_does_not_go_on_with_another_s(pose_files, tmp_path):
    model, photos = pose_files
    work = tmp_path / "work"

    def stop(text):
        if text.startswith("sensitivity: 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_file(model, by_ratios(photos, 0.25), work=work, progress=stop)
    (kept,) = work.glob("layers-*")
    assert measure_file(model, by_ratios(photos, 0.5)) == measure_file(
        model, by_ratios(photos, 0.5), work=work
    )
    with pytest.raises(KeyboardInterrupt):
        measure_file(model, by_ratios(photos, 0.25), work=work, progress=stop)
    kept.write_bytes(kept.read_bytes()[:99])
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        measure_file(model, by_ratios(photos, 0.25), work=work)
