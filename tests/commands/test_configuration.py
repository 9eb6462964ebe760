"""Options from graphopt.toml and pyproject.toml, and how they meet those of the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
import typer
from command_line import Done, Graphopt

from graphopt.analysis.options import CompareOptions
from graphopt.bench.options import BenchOptions
from graphopt.cli import app
from graphopt.commands.configuration import Configuration, read_configuration
from graphopt.commands.parameters import _typed, _values
from graphopt.compiler.options import CompileOptions
from graphopt.display.options import build, fields_of
from graphopt.errors import UsageError
from graphopt.optimizer.options import OptimizeOptions, SensitivityOptions
from graphopt.pose.options import EvalOptions, PoseOptions, RunOptions

DEMO = str(Path(__file__).resolve().parents[2] / "examples" / "demo.onnx")


def pipeline(said: Done) -> str:
    """The passes of an optimize that printed JSON."""
    code, out, err = said
    assert code == 0, err
    return str(json.loads(out)["pipeline"])


EXACT = "canonicalize, fold-batchnorm, canonicalize"


def test_the_file_gives_options_and_the_command_line_wins(
    graphopt: Graphopt, tmp_path: Path
) -> None:
    words = ("optimize", DEMO, "-o", "x.onnx", "--json")
    (tmp_path / "graphopt.toml").write_text(
        '[optimize]\npreset = "exact"\nskip-passes = ["canonicalize"]\nverify = "off"\n'
    )
    assert pipeline(graphopt(*words)) == "fold-batchnorm"
    assert pipeline(graphopt(*words, "--skip-passes", "fold-batchnorm")) == (
        "canonicalize, canonicalize"
    )
    (tmp_path / "graphopt.toml").write_text('[compile]\npost = "none"\n')
    assert pipeline(graphopt(*words, "--passes", "canonicalize")) == "canonicalize"


def test_pyproject_counts_where_there_is_no_file_of_its_own(
    graphopt: Graphopt, tmp_path: Path
) -> None:
    words = ("optimize", DEMO, "-o", "x.onnx", "--json")
    shared = tmp_path / "pyproject.toml"
    shared.write_text('[project]\nname = "mine"\n[tool.graphopt.optimize]\npreset = "exact"\n')
    assert pipeline(graphopt(*words)) == EXACT
    (tmp_path / "graphopt.toml").write_text('[optimize]\npasses = "canonicalize"\n')
    assert pipeline(graphopt(*words)) == "canonicalize"
    (tmp_path / "graphopt.toml").unlink()
    for none_of_ours in ('[project]\nname = "graphopt"\n', "no = ", ""):
        shared.write_text(none_of_ours)
        if none_of_ours != "no = ":
            assert read_configuration(tmp_path) is None
        assert pipeline(graphopt(*words, "--passes", "canonicalize")) == "canonicalize"


def test_verbose_says_which_file_was_read(graphopt: Graphopt, tmp_path: Path) -> None:
    (tmp_path / "graphopt.toml").write_text('[inspect]\ndevice = "adreno-640"\n')
    for words in (("inspect", DEMO, "-v"), ("-v", "inspect", DEMO)):
        code, out, err = graphopt(*words)
        assert code == 0
        assert "options from graphopt.toml" in err
        assert "ms" in out
    assert "graphopt.toml" not in graphopt("inspect", DEMO)[2]
    assert "graphopt.toml" not in graphopt("-v", "inspect", DEMO, "-q")[2]
    (tmp_path / "graphopt.toml").unlink()
    assert not graphopt("inspect", DEMO, "-v")[2]


WRONG = {
    "a key": ('[optimize]\nprset = "exact"', "[optimize] has no option 'prset'", "preset"),
    "an underscore": ("[optimize]\ncalib_photos = 9", "no option 'calib_photos'", "calib-photos"),
    "what is written": ('[optimize]\noutput = "x"', "no option 'output'", "optimize -h"),
    "a command": ('[optimise]\npreset = "exact"', "no command for the table [optimise]", "mize?"),
    "a choice": ('[optimize]\nverify = "often"', "verify must be one of each, end, off", "often"),
    "a type": ("[optimize]\npreset = 3", "preset must be a text, not 3", ""),
    "a number": ('[optimize]\nspeedup = "2"', "speedup must be a number, at least 1, not '2'", ""),
    "true": ("[optimize]\nspeedup = true", "speedup must be a number", ""),
    "a flag": ('[optimize]\ndistill = "no"', "distill must be true or false, not 'no'", ""),
    "a limit": ("[optimize]\ncalib-photos = 4", "must be a whole number, at least 5, not 4", ""),
    "limits": ("[optimize]\nmax-ap-drop = 2", "a number, at least 0 and at most 1, not 2", ""),
    "a whole number": ("[optimize]\ncalib-photos = 7.5", "must be a whole number", ""),
    "no list": ('[optimize]\nskip-passes = "a,b"', "skip-passes must be a list of texts", ""),
    "a list": ("[optimize]\nload = [1]", "load must be a list of paths, not [1]", ""),
    "no table": ("optimize = 3", "optimize must be a table, not 3", ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_a_sentence(case: str, graphopt: Graphopt, tmp_path: Path) -> None:
    text, said, hint = WRONG[case]
    (tmp_path / "graphopt.toml").write_text(text)
    code, out, err = graphopt("optimize", DEMO)
    assert code == 2
    assert "graphopt.toml" in err
    assert said in err
    assert hint in err
    assert not out
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["graphopt.toml"]


def test_pyproject_is_named_with_its_table(graphopt: Graphopt, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.graphopt.optimize]\npreset = 3\n")
    code, _, err = graphopt("optimize", DEMO)
    assert code == 2
    assert "pyproject.toml: [tool.graphopt.optimize] preset must be a text" in err
    (tmp_path / "pyproject.toml").write_text("[tool]\ngraphopt = 3\n")
    code, _, err = graphopt("optimize", DEMO)
    assert code == 2
    assert "tool.graphopt must be a table" in err


@pytest.mark.parametrize("content", [b"no = ", b"a = '\xff'", b"a = " + b"[" * 5000])
def test_a_file_that_is_none(content: bytes, graphopt: Graphopt, tmp_path: Path) -> None:
    (tmp_path / "graphopt.toml").write_bytes(content)
    code, _, err = graphopt("inspect", DEMO)
    assert code == 1
    assert "graphopt.toml is no TOML" in err
    assert "Traceback" not in err


def test_help_is_the_same_everywhere(graphopt: Graphopt, tmp_path: Path) -> None:
    code, expected, _ = graphopt("optimize", "--help")
    assert code == 0
    for text in ('[optimize]\nverify = "off"\n', "no = "):
        (tmp_path / "graphopt.toml").write_text(text)
        assert graphopt("optimize", "--help") == (0, expected, "")


def test_options_that_must_be_given_may_be_in_the_file(graphopt: Graphopt, tmp_path: Path) -> None:
    assert graphopt("sensitivity", DEMO)[0] == 2
    (tmp_path / "graphopt.toml").write_text(
        '[sensitivity]\ncalib = "photos"\nratio = [0.5, 0.25]\n'
    )
    code, _, err = graphopt("sensitivity", DEMO)
    assert code == 1
    assert "photos is no folder of photos" in err


def test_a_mode_is_not_disturbed_by_what_the_file_says_of_others(
    graphopt: Graphopt, tmp_path: Path
) -> None:
    (tmp_path / "graphopt.toml").write_text('[bench]\nvs = ["openvino", "ncnn"]\n')
    code, _, err = graphopt("bench", DEMO, "--device", "adb")
    assert code != 0
    assert "--vs" not in err
    assert "leave it out" in graphopt("bench", DEMO, "--device", "adb", "--vs", "mnn")[2]


def test_groups_have_tables_within(graphopt: Graphopt, tmp_path: Path) -> None:
    (tmp_path / "graphopt.toml").write_text('[passes.list]\nload = ["none.py"]\n')
    code, _, err = graphopt("passes", "list")
    assert code == 1
    assert "none.py" in err
    assert graphopt("passes", "show", "canonicalize")[0] == 0


def test_paths_lead_on_from_the_file(tmp_path: Path) -> None:
    said = {"calib": "photos", "load": ["a.py", "/b.py"], "input-shape": ["1,3,8,8"]}
    file = Configuration(tmp_path / "graphopt.toml", "", {"optimize": said})
    assert file.values(["optimize"], OptimizeOptions, ["optimize"]) == {
        "calib": str(tmp_path / "photos"),
        "load": [str(tmp_path / "a.py"), "/b.py"],
        "input_shape": ["1,3,8,8"],
    }
    with pytest.raises(UsageError, match="no option 'calib'"):
        file.values(["optimize"], None, ["optimize"])


def with_options(group: Any, *names: str) -> Iterator[tuple[str, type, Any]]:
    """Every command whose options are a dataclass."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from with_options(command, *names, name)
        elif kind := getattr(command.callback, "options", None):
            yield " ".join((*names, name)), kind, command


COMMANDS = {name: rest for name, *rest in with_options(typer.main.get_command(app))}


def test_these_commands_have_dataclasses() -> None:
    assert COMMANDS.keys() >= {
        *("optimize", "sensitivity", "explain", "compile", "tune", "bench", "profile"),
        *("search", "run", "eval", "compare", "inspect", "passes list", "passes show"),
        *("design", "reproduce", "zoo build", "pack"),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_the_same_for_all(name: str) -> None:
    """What the command line gives where nothing is said is the dataclass as Python makes it."""
    kind, command = COMMANDS[name]
    fields = list(fields_of(kind))
    required = {f.name: Path("x") for f in fields if f.default is dataclasses.MISSING}
    given = {f.name: required.get(f.name, _typed(f)[1]) for f in fields}
    assert build(kind, dict(_values(fields, given))) == kind(**required)
    parameters = {param.name: param for param in command.params}
    for field in fields:
        param = parameters[field.name]
        assert param.opts == [field.flag]
        assert param.help == field.option.help
        assert param.rich_help_panel == field.option.panel.value
        assert param.required == (field.name in required)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_can_say_all_defaults(name: str) -> None:
    kind, _ = COMMANDS[name]
    words = name.split()
    content: dict[str, Any] = {
        field.flag[2:]: list(field.default) if get_origin(field.type) is tuple else field.default
        for field in fields_of(kind)
        if field.default not in (None, dataclasses.MISSING)
    }
    for word in reversed(words):
        content = {word: content}
    values = Configuration(Path("graphopt.toml"), "", content).values(words, kind, words[:1])
    assert len(values) == len(content[words[0]] if len(words) == 1 else content[words[0]][words[1]])


def test_groups_of_options_are_built_from_plain_names() -> None:
    options = build(OptimizeOptions, {"preset": "exact", "mean": "128", "pad_value": 3.0})
    assert options == OptimizeOptions(preset="exact", pose=PoseOptions(mean="128", pad_value=3.0))
    assert options.pose.choices()["mean"] == (128.0, 128.0, 128.0)
    for kind in (CompileOptions, BenchOptions, RunOptions):
        assert build(kind, {}) == kind()
    for incomplete in (SensitivityOptions, EvalOptions, CompareOptions):
        with pytest.raises(TypeError, match="required"):
            build(incomplete, {})
    assert build(RunOptions, {"smooth": True, "threads": 2}).running.threads == 2
