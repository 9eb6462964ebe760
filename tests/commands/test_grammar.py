"""What all commands have in common: exit codes, options of one name and one meaning."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Graphopt

from graphopt.cli import app
from graphopt.commands.grammar import FLAG, RENAMED
from graphopt.errors import InputError

DEMO = str(Path(__file__).resolve().parents[2] / "examples" / "demo.onnx")
PHOTO = DEMO.replace(".onnx", ".png")


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
    "CPU's feature": ("compile", DEMO, "-o", "b", "--cpu-features", "avx2,sse9"),
    "another architecture's feature": (
        *("compile", DEMO, "-o", "b", "--host", "aarch64-linux-gnu", "--cpu-features", "avx2"),
    ),
    "CPU's feature of a GPU": (
        *("compile", DEMO, "-o", "b", "--target", "opencl", "--cpu-features", "avx2"),
    ),
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
def test_a_wrong_value_of_an_option_is_wrong_use(
    case: str, graphopt: Graphopt, tmp_path: Path
) -> None:
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
def test_a_file_that_cannot_be_read_is_not(case: str, graphopt: Graphopt, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_text("no = ")
    done = graphopt(*UNREADABLE[case])
    assert done.code == 1, done.stderr
    assert "Traceback" not in done.stderr


def commands(group: Any, *words: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *words, name)
        else:
            yield " ".join((*words, name)), command


EVERY = dict(commands(typer.main.get_command(app)))
FLAGS = {name: {flag for p in c.params for flag in p.opts} for name, c in EVERY.items()}


@pytest.mark.parametrize("name", EVERY)
def test_every_command_has_the_options_that_all_have(name: str) -> None:
    assert "--json" in FLAGS[name]
    assert ("--calib" in FLAGS[name]) == ("--calib-photos" in FLAGS[name])


def test_renamed_options_are_gone_from_help() -> None:
    for command, names in RENAMED.items():
        for old, new in names.items():
            assert old not in FLAGS[command]
            assert new in FLAGS[command]


JSON = {
    "passes list": ("passes", "list"),
    "passes show": ("passes", "show", "fold-batchnorm"),
    "inspect": ("inspect", DEMO),
    "compare": ("compare", DEMO, DEMO, "--images", str(Path(DEMO).parent), "--limit", "1"),
    "explain": ("explain", DEMO, "--pass", "fold-batchnorm"),
    "optimize": ("optimize", DEMO, "-o", "x.onnx", "--passes", "canonicalize"),
    "zoo build": ("zoo", "build", "openpose", "-o", "x.onnx"),
    "pack": ("pack", DEMO, "-o", "x.onnx"),
    "unpack": ("unpack", DEMO, "-o", "x.onnx"),
    "run": ("run", DEMO, PHOTO),
    "reproduce": ("reproduce", "table1"),
}


@pytest.mark.parametrize("case", JSON)
def test_json_goes_to_stdout_alone_or_to_a_file(
    case: str, graphopt: Graphopt, tmp_path: Path
) -> None:
    words = JSON[case]
    bare = graphopt(*words, "--json")
    assert bare.code == 0, bare.stderr
    value = json.loads(bare.stdout)
    filed = graphopt(*words, "--json", "out/it.json")
    assert filed.code == 0, filed.stderr
    written = json.loads((tmp_path / "out" / "it.json").read_text())
    assert type(written) is type(value)
    assert not isinstance(value, dict) or written.keys() == value.keys()
    assert filed.stdout.strip()
    assert filed.stdout != bare.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["it.json"]
    assert graphopt(*words, "--json", "-").stdout[:1] == bare.stdout[:1]


def test_a_bare_json_before_other_arguments_takes_none_of_them(
    graphopt: Graphopt, tmp_path: Path
) -> None:
    copy = tmp_path / "net.onnx"
    shutil.copy(DEMO, copy)
    before = copy.read_bytes()
    assert json.loads(graphopt("inspect", "--json", copy).stdout)
    assert json.loads(graphopt("inspect", "--json", copy, copy).stdout).keys() > {"a", "b"}
    assert json.loads(graphopt("passes", "show", "--json", "canonicalize").stdout)
    assert json.loads(graphopt("reproduce", "--json", "table1").stdout)
    assert copy.read_bytes() == before
    assert graphopt("inspect", copy, "--json=told").code == 0
    assert json.loads((tmp_path / "told").read_text())


def test_json_that_cannot_be_written_is_a_sentence(graphopt: Graphopt) -> None:
    done = graphopt("inspect", DEMO, "--json", "/proc/none/x.json")
    assert done.code == 1
    assert "/proc/none/x.json cannot be written" in done.stderr
    assert " -o" not in done.stderr  # which inspect lacks


def test_old_names_are_understood_and_warned_of(graphopt: Graphopt, tmp_path: Path) -> None:
    words = ("bench", DEMO, "--vs", "onnxruntime", "--num-runs", "1", "--threads", "1")
    done = graphopt(*words, "--input-shape", "1,3,64,64", "--result-json", "old.json")
    assert done.code == 0, done.stderr
    assert "--result-json is now called --json" in done.stderr
    assert "engines" in json.loads((tmp_path / "old.json").read_text())
    done = graphopt("sensitivity", DEMO, "--calib", "none", "--photos=5")
    assert done.code == 1
    assert "--photos is now called --calib-photos" in done.stderr
    assert "none is no folder of photos" in done.stderr


ROOT = Path(DEMO).parent.parent
ERRORS = {"InputError", "UsageError", "Unsupported", "CheckFailed", "GraphoptError", "kind"}
FOREIGN = {"--inputs-as-nchw", "--no-deps", "--outputs-as-nchw", "--port"}
"""Options of other programs that our texts name."""


def texts_of_errors() -> Iterator[tuple[str, str]]:
    """Every text that is given to an error, and what it may be made of, with its place."""
    for folder in ("graphopt", "passes", "codegen"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id not in ERRORS:
                    continue
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{file.name}:{part.lineno}", part.value


def test_errors_name_options_that_there_are() -> None:
    known = set.union(*FLAGS.values()) | FOREIGN
    named = [(place, flag) for place, text in texts_of_errors() for flag in FLAG.findall(text)]
    assert len(named) > 30
    assert not [one for one in named if one[1] not in known]


def test_a_hint_says_whose_an_option_is(
    graphopt: Graphopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(hint: str) -> Callable[..., None]:
        def failing(*_: object, **__: object) -> None:
            raise InputError("it fails", hint=hint)

        return failing

    for hint, said in (
        ("try --verify off", "try --verify off (--verify: of graphopt optimize)"),
        (
            "leave it out with --skip-passes, or --on-fail revert; or --track",
            "leave it out with --skip-passes, or --on-fail revert; or --track "
            "(--skip-passes: of graphopt optimize; --on-fail: of graphopt optimize, compile)",
        ),
        ("compile it again with --host", "compile it again with --host"),
        ("try --height 368", "try --height 368"),
    ):
        monkeypatch.setattr("graphopt.pose.open.open_any", fail(hint))
        done = graphopt("run", DEMO, PHOTO)
        assert done.code == 1
        assert " ".join(done.stderr.split()).endswith(f"hint: {said}")
