"""What all commands have in common: exit codes, options of one name and one meaning."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from graphopt.cli import main

DEMO = str(Path(__file__).resolve().parent.parent / "examples" / "demo.onnx")
PHOTO = DEMO.replace(".onnx", ".png")


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def graphopt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Done]:
    """The command line as the installed script runs it, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["graphopt", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return call


WRONG_VALUES = {
    "preset": ("optimize", DEMO, "--preset", "fast"),
    "pass": ("optimize", DEMO, "--passes", "fold-batchnrom"),
    "pass's option": ("optimize", DEMO, "--passes", "reconstruct{mask=all}"),
    "pass's value": ("optimize", DEMO, "--passes", "reconstruct{masks=some}"),
    "skipped pass": ("optimize", DEMO, "--skip-passes", "fold"),
    "explained pass": ("explain", DEMO, "--pass", "undilate"),
    "explained passes": ("explain", DEMO, "--pass", "fold-batchnorm, canonicalize"),
    "explained node": ("explain", DEMO, "--pass", "undilate-conv", "--node", "none"),
    "shown pass": ("passes", "show", "none"),
    "device": ("optimize", DEMO, "--device", "adreno-64"),
    "inspected device": ("inspect", DEMO, "--device", "adreno-64"),
    "reproduced device": ("reproduce", "table1", "--device", "adreno-64"),
    "profiled device": ("profile", "-o", "x.toml", "--device", "adb"),
    "run's device": ("run", DEMO, PHOTO, "--device", "usb"),
    "engine": ("run", DEMO, PHOTO, "--engine", "tvm"),
    "evaluated engine": ("eval", DEMO, "--images", ".", "--annotations", "a", "--engine", "tvm"),
    "competitor": ("bench", DEMO, "--vs", "tflite"),
    "target": ("compile", DEMO, "-o", "b", "--target", "adreno-9000"),
    "tuned target": ("tune", DEMO, "--target", "gpu"),
    "profiled target": ("profile", "-o", "x.toml", "--target", "gpu"),
    "host": ("compile", DEMO, "-o", "b", "--host", "riscv"),
    "half precision of a CPU": ("compile", DEMO, "-o", "b", "--fp16-arithmetic"),
    "skeleton": ("run", DEMO, PHOTO, "--skeleton", "coco19"),
    "colour": ("run", DEMO, PHOTO, "--color", "cmyk"),
    "mean": ("compile", DEMO, "-o", "b", "--mean", "1,2"),
    "scale": ("compare", DEMO, DEMO, "--images", ".", "--scale", "1/0"),
    "shape": ("optimize", DEMO, "--input-shape", "big"),
    "shape of another rank": ("inspect", DEMO, "--input-shape", "1,3"),
    "shape of another input": ("inspect", DEMO, "--input-shape", "data:1,3,64,64"),
    "zoo's network": ("zoo", "build", "yolo", "-o", "x.onnx"),
    "zoo's shape": ("zoo", "build", "openpose", "-o", "x.onnx", "--input-shape", "1,3,9,9"),
    "zoo's stages": ("zoo", "build", "openpose", "-o", "x.onnx", "--stages", "99"),
    "depths": ("design", "--gmacs", "10", "--depths", "a,b"),
    "depth": ("design", "--gmacs", "10", "--depths", "16"),
    "backbone": ("design", "--gmacs", "10", "--backbone", "vgg"),
    "server": ("bench", DEMO, "--rpc", "here"),
    "library's name": ("compile", DEMO, "-o", "net.dll", "--format", "tvm"),
    "picture's name": ("run", DEMO, PHOTO, "-o", "out.txt"),
    "calib without fp16": ("compile", DEMO, "-o", "b", "--calib", "."),
    "tracking in photos": ("run", DEMO, PHOTO, "--track"),
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_a_wrong_value_of_an_option_is_wrong_use(case, graphopt, tmp_path):
    done = graphopt(*WRONG_VALUES[case])
    assert done.code == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert not done.stdout
    assert not list(tmp_path.iterdir())


UNREADABLE = {
    "network": ("optimize", "none.onnx"),
    "damaged network": ("inspect", "damaged"),
    "device": ("inspect", DEMO, "--device", "damaged"),
    "skeleton": ("run", DEMO, PHOTO, "--skeleton", "damaged"),
    "photo": ("run", DEMO, "damaged"),
    "tuning file": ("compile", DEMO, "-o", "b", "--tuning", "damaged"),
    "bundle": ("android", "build", "damaged"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read_is_not(case, graphopt, tmp_path):
    (tmp_path / "damaged").write_text("no = ")
    done = graphopt(*UNREADABLE[case])
    assert done.code == 1, done.stderr
    assert "Traceback" not in done.stderr
