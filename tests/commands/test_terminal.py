"""What users see: every command on a terminal of 80 columns, in a pipe, and its help."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Done, Graphopt
from known import known
from rich.cells import cell_len

from graphopt.commands import ALL
from graphopt.commands.help import COMMANDS, EXAMPLES
from graphopt.commands.progress import Clock, duration
from graphopt.display.tables import Grid, Kind, console, distinct
from graphopt.ir.onnx_io import load_model
from graphopt.optimizer.optimize import optimize
from graphopt.optimizer.options import OptimizeOptions
from graphopt.pose.images import usual_picture
from graphopt.runtime.synthetic_images import natural_photo

MAIN = "from graphopt.cli import main; main()"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NAME = "backbone[/stage.0]/layers.{}/branch[bold]/conv/Conv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pose network of any size with long names that look like markup, its bundle and photos."""
    path = tmp_path_factory.mktemp("terminal")
    rng = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = (rng.standard_normal(shape) * 0.1).astype(np.float32)
        return onnx.numpy_helper.from_array(values, name)

    make = onnx.helper.make_node
    nodes, tensor = [], "x"
    weights = [weight("w0", 32, 3, 3, 3), *(weight(f"w{i}", 32, 32, 3, 3) for i in (1, 2, 3))]
    for index in range(4):
        dilated = {"dilations": [2, 2], "pads": [2] * 4} if index > 1 else {"pads": [1] * 4}
        strides = [4, 4] if index == 0 else [1, 1]
        name = NAME.format(index)
        nodes.append(
            make("Conv", [tensor, f"w{index}"], [f"c{index}"], name, strides=strides, **dilated)
        )
        nodes.append(make("Relu", [f"c{index}"], [f"r{index}"], name.replace("conv", "act")))
        tensor = f"r{index}"
    weights += [weight("wh", 19, 32, 1, 1), weight("wp", 38, 32, 1, 1)]
    nodes += [
        make("Conv", [tensor, "wh"], ["heat"], "heat[/]"),
        make("Conv", [tensor, "wp"], ["paf"]),
    ]
    value = onnx.helper.make_tensor_value_info
    outputs = [value(n, 1, [1, c, "h", "w"]) for n, c in (("heat", 19), ("paf", 38))]
    graph = onnx.helper.make_graph(
        nodes, "net", [value("x", 1, [1, 3, "H", "W"])], outputs, initializer=weights
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path / "net.onnx")
    from PIL import Image

    (path / "photos").mkdir()
    for number in range(5):
        pixels = natural_photo(96, 128, number).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path / "photos" / f"{number}.png")
    small = OptimizeOptions(input_shape=("x:1,3,64,96",))
    optimize(path / "net.onnx", path / "small.onnx", small)
    command = "compile small.onnx -o small.graphopt"
    subprocess.run([sys.executable, "-c", MAIN, *command.split()], cwd=path, check=True)
    return path


def on_terminal(command: str, folder: Path) -> tuple[int, str]:
    """A command's exit code, and all that it writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**os.environ, "TERM": "xterm"}
    env.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *shlex.split(command)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=env,
    )
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # Linux says EIO when the other end is closed, others nothing
        while more := os.read(ours, 1 << 16):
            seen += more
    os.close(ours)
    return process.wait(), seen.decode()


def look(text: str) -> list[str]:
    """The lines as they stand on a terminal, whatever was drawn over others."""
    plain = ESCAPES.sub("", text)
    return [line for row in plain.split("\n") for line in row.split("\r")]


COMMANDS_TO_SEE = [
    "optimize net.onnx -o out.onnx",
    "optimize net.onnx -o out.onnx -v --calib photos",
    "optimize net.onnx -o out.onnx --preset exact",
    "inspect net.onnx",
    "inspect net.onnx --device adreno-640",
    "inspect net.onnx small.onnx --device adreno-640",
    "inspect small.graphopt",
    "explain net.onnx --pass undilate-conv",
    "passes list",
    "passes show undilate-conv",
    "compare net.onnx small.onnx --images photos",
    "zoo list",
    "reproduce table1",
    "reproduce table2",
    "reproduce fig3",
    "design --gmacs 16 --depths 36",
    "doctor",
    "sensitivity small.onnx --calib photos --photos 5 --ratio 0.5",
    "bench small.graphopt --num-runs 1 --warmup-runs 0 --per-layer",
    "pack small.onnx -o packed.onnx",
    "zoo build lightweight-openpose -o zoo.onnx",
]


def check(text: str) -> None:
    """No line is too wide, nothing went wrong, and every name can be told from the others."""
    assert "Traceback" not in text
    lines = look(text)
    assert all(cell_len(line.rstrip()) <= 80 for line in lines), [
        line for line in lines if cell_len(line.rstrip()) > 80
    ]
    # The first column below a heading is never empty or of one character but for folded rows.
    for above, below in pairwise(lines):
        if set(above.strip()) == {"─"} and below.strip():
            first = re.split(r"\s{2,}", below.rstrip())[0]
            assert len(first) != 1, below


@pytest.mark.parametrize("command", COMMANDS_TO_SEE)
def test_every_command_on_a_terminal_of_80_columns(folder: Path, command: str) -> None:
    code, text = on_terminal(command, folder)
    assert code == 0, text
    check(text)


@pytest.fixture
def piped(
    monkeypatch: pytest.MonkeyPatch, graphopt: Graphopt, folder: Path
) -> Callable[[str], Done]:
    """Run a command line in this process, its output into a pipe."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("COLUMNS", raising=False)
    return lambda command: graphopt(*shlex.split(command))


@pytest.mark.parametrize("command", COMMANDS_TO_SEE)
def test_every_command_in_a_pipe(piped: Callable[[str], Done], command: str) -> None:
    code, out, err = piped(command)
    assert code == 0, err
    check(out)
    assert "\x1b" not in out + err


def test_columns_is_obeyed(piped: Callable[[str], Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = piped("inspect net.onnx")
    for index in range(4):
        assert NAME.format(index) in out  # whole, as one could copy it
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = piped("inspect net.onnx --device adreno-640")
    assert all(cell_len(line) <= 60 for line in out.splitlines())
    assert "bound" in out


@pytest.mark.parametrize(
    "command",
    ["inspect net.onnx", "inspect small.graphopt", "explain net.onnx --pass undilate-conv"],
)
def test_names_that_look_like_markup_are_printed_as_they_are(
    piped: Callable[[str], Done], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = piped(command)
    assert code == 0
    assert NAME.format(0 if "graphopt" in command else 2) in out


def test_markup_in_messages_and_file_names(piped: Callable[[str], Done], folder: Path) -> None:
    bare = folder / "a[b].onnx"
    bare.write_bytes((folder / "net.onnx").read_bytes())
    for command in ("inspect a[b].onnx", "inspect a[b].onnx net.onnx"):
        code, out, _ = piped(command)
        assert code == 0
        assert "a[b].onnx" in out
    code, _, err = piped("inspect none[b].onnx")
    assert code == 1
    assert "none[b].onnx does not exist" in err
    code, out, _ = piped("optimize a[b].onnx -o c[d].onnx --preset exact")
    assert code == 0
    assert "c[d].onnx" in out
    code, out, _ = piped("explain a[b].onnx --pass pack-weights --node heat[/]")
    assert code == 0
    assert "heat[/]" in out


# --- tables -------------------------------------------------------------------------------------


def test_elided_names_stay_distinct() -> None:
    names = [f"Mconv{i}_stage{j}_L1/3x3/{k}/Fused_Add_" for i in "12" for j in "12" for k in "12"]
    for width in (12, 16, 20, 24, 40):
        looks = distinct(names, width)
        assert len(set(looks.values())) == len(names)
        assert all(len(look) <= width or look == name for name, look in looks.items())
    assert distinct(["short"], 12) == {"short": "short"}


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_tables_fit_and_lose_no_column(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    kinds = {"layer": Kind.NAME, "what": Kind.WORDS, "ms": Kind.NUMBER, "MACs": Kind.NUMBER}
    grid = Grid(kinds | {"of": Kind.KEY, "bound": Kind.WORDS}, title="t[/i]tle " * 20)
    for index in range(3):
        grid.add(f"{'n' * 50}{index}{'m' * 50}", "some words " * 5, "123.4", "5 G", "k", "last")
    console().print(grid)
    lines = capsys.readouterr().out.splitlines()
    assert all(cell_len(line) <= width for line in lines)
    head = next(line for line in lines if "layer" in line)
    assert all(heading in head for heading in kinds)
    assert sum("last" in line for line in lines) == 3
    assert sum("123.4" in line for line in lines) == 3 or width == 40


# --- progress -----------------------------------------------------------------------------------


def test_time_left_follows_from_what_is_done() -> None:
    times = iter((0.0, 10.0, 20.0, 30.0))
    clock = Clock(now=lambda: next(times))
    clock.told("layers: 10 of 50")
    assert clock.left() is None  # nothing was done since
    clock.told("layers: 20 of 50")
    assert clock.left() == 30.0  # 10 took 10 seconds
    clock.told("another step: 1 of 2")
    assert clock.left() is None
    clock.told("no count")
    assert clock.total is None
    assert [duration(s) for s in (9.6, 99, 180, 7500)] == ["10 s", "99 s", "3 min", "2 h 5 min"]


def test_a_log_hears_from_a_step_that_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("graphopt.commands.progress.EVERY", 0.05)
    from graphopt.commands.progress import shown

    with shown("first") as tell:
        tell("photos: 1 of 9")
        tell("photos: 3 of 9")
        deadline = time.monotonic() + 30
        err = ""
        while "photos: 3 of 9 (" not in err and time.monotonic() < deadline:
            time.sleep(0.02)
            err += capsys.readouterr().err
    assert re.search(r"^photos: 3 of 9 \(\d+ s, about \d+ s left\)$", err, re.MULTILINE)


def test_quiet_and_verbose(piped: Callable[[str], Done]) -> None:
    code, out, err = piped("optimize -q net.onnx -o out.onnx")
    assert code == 0
    assert not err
    assert len(out.splitlines()) <= 4
    assert "times as fast" in out
    code, out, err = piped("optimize --verbose net.onnx -o out.onnx")
    assert "fold-batchnorm (" in err  # each step, at once
    assert re.search(r"^stack-large-conv +\S+ +0", out, re.MULTILINE)
    code, out, err = piped("-q optimize net.onnx -o out.onnx")
    assert not err
    code, _, err = piped("optimize -q -v net.onnx")
    assert code == 2
    assert "not both" in err


# --- help ---------------------------------------------------------------------------------------


def every_command() -> list[str]:
    groups = {"passes": ("list", "show"), "zoo": ("list", "build"), "android": ("build",)}
    return [f"{n} {i}".rstrip() for n in ALL for i in groups.get(n, ("",))]


def test_help_names_every_command_once() -> None:
    assert sorted(name for names in COMMANDS.values() for name in names) == sorted(ALL)
    assert sorted(EXAMPLES) == sorted(every_command())


@pytest.mark.parametrize("command", every_command())
def test_help_of(piped: Callable[[str], Done], command: str) -> None:
    code, out, _ = piped(f"{command} -h")
    assert code == 0
    assert piped(f"{command} --help")[1] == out
    assert all(cell_len(line) <= 80 for line in out.splitlines())
    assert "Example:" in out
    assert f"graphopt {command}" in out[out.index("Example:") :]
    example = shlex.split(EXAMPLES[command])
    assert example[: 1 + len(command.split())] == ["graphopt", *command.split()]
    for word in example:
        if word.startswith("-"):
            assert re.search(rf"{re.escape(word)}\b", out[: out.index("Example:")]), word
    for flag in ("--verbose", "-v", "--quiet", "-q", "-h"):
        assert flag in out


def test_many_options_stand_in_panels(piped: Callable[[str], Done]) -> None:
    """What is left for the first panel is what every command has."""
    for command in ("optimize", "compile", "run", "bench", "sensitivity"):
        _, out, _ = piped(f"{command} -h")
        first = out[out.index("╭─ Options") :].split("╰")[0]
        assert len(re.findall(r"^│ +--", first, re.MULTILINE)) <= 4, first
        assert out.count("╭─") >= 4


def test_completion(piped: Callable[[str], Done]) -> None:
    code, out, _ = piped("-h")
    assert code == 0
    assert "--install-completion" in out
    env = {**os.environ, "_GRAPHOPT_COMPLETE": "complete_bash", "COMP_WORDS": "graphopt opt"}
    shown = subprocess.run(
        [Path(sys.executable).with_name("graphopt")],
        env={**env, "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "graphopt opt"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "optimize" in shown.stdout


# --- the verdict --------------------------------------------------------------------------------


def test_the_verdict_comes_first(piped: Callable[[str], Done]) -> None:
    code, out, _ = piped("optimize net.onnx -o out.onnx")
    assert code == 0
    text = " ".join(out.split())
    assert re.match(
        r"out\.onnx: \d\.\d\d times as fast on adreno-640 \(\d+\.\d → \d+\.\d ms, predicted, "
        r"at x 1x3x368x656\); outputs (unchanged|equal within)",
        text,
    )
    assert "next: graphopt compile out.onnx" in text
    assert text.index("next:") < text.index("numerics")
    assert "OKS" not in text  # there is nobody in made-up images
    assert "changed nothing: fold-batchnorm" in text
    assert "takes x 1x3x368x656 only" in text
    assert "at x 1x3x368x656." in text


def test_a_verdict_with_photos(piped: Callable[[str], Done]) -> None:
    """A pass that moves outputs is judged on photos that nothing was fitted on."""
    code, out, _ = piped(
        "optimize net.onnx -o out.onnx --calib photos --passes undilate-conv{way=stacked}"
    )
    assert code == 0
    text = " ".join(out.split())
    assert re.search(r"outputs move by at most \S+ of their range; \d+ people in 1 photos", text)


def test_a_verdict_without_photos_says_what_was_not_judged(piped: Callable[[str], Done]) -> None:
    _, out, _ = piped("optimize net.onnx -o out.onnx --passes undilate-conv{way=stacked}")
    assert "poses not judged: no photos (--calib DIR)" in " ".join(out.split())


def test_nothing_changed_says_why_and_what_helps(piped: Callable[[str], Done]) -> None:
    piped("optimize net.onnx -o once.onnx --preset exact")
    code, out, _ = piped("optimize once.onnx -o twice.onnx --preset exact")
    assert code == 0
    text = " ".join(out.split())
    assert text.startswith("twice.onnx: nothing was changed: it has nothing that these passes")
    assert "next: graphopt optimize once.onnx --preset mobile" in text
    _, out, _ = piped(
        "optimize once.onnx -o twice.onnx --input-shape dynamic --passes undilate-conv"
    )
    text = " ".join(out.split())
    assert "nothing was changed: its input's size is not known" in text
    assert "next: graphopt optimize once.onnx --input-shape 1,3,368,656" in text


# --- the size -----------------------------------------------------------------------------------


def test_a_pass_bound_to_a_size_gets_the_one_that_compile_takes(
    folder: Path, tmp_path: Path
) -> None:
    report = optimize(folder / "net.onnx", tmp_path / "a.onnx")
    assert {entry.name.partition("{")[0] for entry in report.passes if entry.changes} >= {
        "undilate-conv"
    }
    assert load_model(tmp_path / "a.onnx").inputs[0].shape == [1, 3, 368, 656]
    assert report.sizes == {"x": (1, 3, 368, 656)}


def test_other_pipelines_leave_the_input_as_it_is(folder: Path, tmp_path: Path) -> None:
    report = optimize(folder / "net.onnx", tmp_path / "a.onnx", OptimizeOptions(preset="exact"))
    assert load_model(tmp_path / "a.onnx").inputs[0].shape == [1, 3, "H", "W"]
    assert report.sizes == {"x": (1, 3, 368, 656)}  # judged there all the same
    assert "takes any size" in report.remarks[0]
    report = optimize(
        folder / "net.onnx", tmp_path / "a.onnx", OptimizeOptions(input_shape=("dynamic",))
    )
    assert load_model(tmp_path / "a.onnx").inputs[0].shape == [1, 3, "H", "W"]
    assert report.ms_before is not None


def test_a_size_that_was_given_is_taken(folder: Path, tmp_path: Path) -> None:
    small = OptimizeOptions(input_shape=("1,3,64,96",))
    report = optimize(folder / "net.onnx", tmp_path / "a.onnx", small)
    assert report.sizes == {"x": (1, 3, 64, 96)}
    assert not any("takes" in remark for remark in report.remarks)


def test_three_commands_with_nothing_but_file_names(
    piped: Callable[[str], Done], folder: Path
) -> None:
    """Each says the next one, and the last one where the picture is."""
    for command, said in (
        ("optimize net.onnx", "next: graphopt compile net.opt.onnx"),
        ("compile net.opt.onnx", "next: graphopt run net.opt.graphopt PHOTO"),
    ):
        code, out, err = piped(command)
        assert code == 0, err
        assert said in out
    code, out, err = piped("run net.opt.graphopt photos/0.png")
    assert code == 0, err
    assert "0.poses.png: the poses drawn" in err
    assert (folder / "0.poses.png").is_file()
    assert usual_picture([folder / "a.jpg", folder / "b.jpg"]) is None
    assert usual_picture([folder / "photos"]) is None


@pytest.mark.assets
def test_bare_optimize_undilates_lightweight_openpose(lwop: Path, tmp_path: Path) -> None:
    """Five of six: in phases, the depthwise one is predicted to gain nothing."""
    report = optimize(lwop, tmp_path / "lwop.opt.onnx")
    (step,) = (entry for entry in report.passes if entry.name.startswith("undilate-conv"))
    assert (len(step.changes), len(step.skips)) == (5, 1)
    assert report.sizes == {"data": (1, 3, 368, 656)}
    assert known(report.ms_after) < 0.7 * known(report.ms_before)
    assert not any(entry.poses for entry in report.passes)
