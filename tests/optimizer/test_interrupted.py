"""Pruning to a target takes long: what an interruption leaves behind, and how the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import InputError
from graphopt.fitting.least_squares import LeastSquares
from graphopt.ir.onnx_io import load_model
from graphopt.optimizer import prune_to_target_pass as pruning
from graphopt.optimizer import sensitivity
from graphopt.optimizer.optimize import optimize
from graphopt.optimizer.options import OptimizeOptions, SensitivityOptions
from graphopt.optimizer.sensitivity import measure_file
from graphopt.optimizer.sensitivity_file import Sensitivity


def calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[tuple[Any, ...]]:
    """The arguments that a function is called with from now on."""
    made: list[tuple[Any, ...]] = []
    true = getattr(owner, name)

    def watched(*arguments: Any, **options: Any) -> Any:
        made.append(arguments)
        return true(*arguments, **options)

    monkeypatch.setattr(owner, name, watched)
    return made


@pytest.mark.parametrize(
    "stop_at", ["sensitivity: 2", "reconstruct: 3", "prune-to-target: the poses"]
)
def test_goes_on_to_the_same_bytes(
    pose_files: tuple[Path, Path], tmp_path: Path, stop_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, photos = pose_files
    whole, stopped = tmp_path / "whole.onnx", tmp_path / "again.onnx"

    def run(output: Path, stop_at: str | None = None) -> list[str]:
        told = []

        def progress(text: str) -> None:
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

    before = model.read_bytes()
    all_told = run(whole)
    work = tmp_path / "again.work"
    with pytest.raises(KeyboardInterrupt, match=r"the same command goes on from .*again\.work"):
        run(stopped, stop_at)
    assert not stopped.exists()
    assert model.read_bytes() == before
    load_model(work / "last-good.onnx")
    measured, solved = (
        calls(monkeypatch, pruning, "sensitivity"),
        calls(monkeypatch, LeastSquares, "solve"),
    )
    told = run(stopped)
    if stop_at.startswith("sensitivity"):
        assert told == all_told
    else:
        assert not measured
        kept = 2 if stop_at.startswith("reconstruct") else 0
        assert len(solved) == sum(" of " in text and "reconstruct" in text for text in told) - kept
    again, plan = (str(tmp_path / f"{n}.plan.json").encode() for n in ("again", "whole"))
    assert stopped.read_bytes().replace(again, plan) == whole.read_bytes()
    assert not work.exists()


def test_what_is_not_the_run_s_own_stays(pose_files: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = pose_files
    work = tmp_path / "net.opt.work"
    work.mkdir()
    (work / "diary.txt").write_text("dear")
    optimize(model, options=OptimizeOptions(passes="reconstruct", calib=photos))
    assert [file.name for file in work.iterdir()] == ["diary.txt"]


def by_ratios(photos: Path, *ratio: float) -> SensitivityOptions:
    return SensitivityOptions(calib=photos, ratio=ratio)


def test_sensitivity_goes_on_with_the_next_layer(
    pose_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, photos = pose_files
    work = tmp_path / "found.sensitivity.work"
    told: list[str] = []
    fitted = calls(monkeypatch, sensitivity, "_pruned")

    def run(work: Path | None, stop_at: str | None = None) -> Sensitivity:
        def progress(text: str) -> None:
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


def test_sensitivity_does_not_go_on_with_another_s(
    pose_files: tuple[Path, Path], tmp_path: Path
) -> None:
    model, photos = pose_files
    work = tmp_path / "work"

    def stop(text: str) -> None:
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
