"""How commands end: in any locale, out of memory, interrupted, and with a traceback asked for."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from known import known

from graphopt import cli
from graphopt.errors import CheckFailed, InputError, Unsupported, UsageError
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.optimizer.optimize import optimize
from graphopt.optimizer.options import OptimizeOptions
from graphopt.pose.detect import detect_pose_spec

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.onnx"
LOCALES = {"ascii": {"PYTHONIOENCODING": "ascii"}, "C": {"LC_ALL": "C", "LANG": "C"}}


@pytest.fixture
def foreign(pose_files: tuple[Path, Path], tmp_path: Path) -> Path:
    """A pose network, its nodes and its file named in characters that few encodings have."""
    graph = load_model(pose_files[0])
    for node in graph.nodes:
        node.name = f"слой→{node.outputs[0].name}…"
    path = tmp_path / "сеть.onnx"
    save_model(graph, path)
    return path


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("inspect", "NET", "--device", "adreno-640"),
        ("passes", "list"),
        ("optimize", "NET", "--passes", "canonicalize", "-o", "OUT.onnx"),
        ("compile", "NET", "-o", "OUT"),
        ("optimize", "нет…"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_no_locale_stops_a_command(
    words: tuple[str, ...], locale: str, foreign: Path, tmp_path: Path
) -> None:
    script = Path(sysconfig.get_path("scripts"), "graphopt")
    given = [w.replace("NET", str(foreign)).replace("OUT", str(tmp_path / "новый")) for w in words]
    done = subprocess.run(
        [script, *given],
        env={**os.environ, **LOCALES[locale]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode("utf-8", "replace")
    assert done.returncode == ("нет…" in words), done.stderr
    assert done.stdout or done.stderr


ENDS = {
    "input": (InputError("no such file"), 1, "no such file"),
    "use": (UsageError("no such name"), 2, "no such name"),
    "check": (CheckFailed("other outputs"), 3, "other outputs"),
    "unsupported": (Unsupported("no such operator"), 4, "no such operator"),
    "memory": (MemoryError(), 1, "memory ran out"),
    "interrupt": (KeyboardInterrupt(), 130, "interrupted; nothing half-written was left behind"),
    "interrupt that leaves": (
        KeyboardInterrupt("go on from here"),
        130,
        "interrupted; go on from here",
    ),
    "full disk": (
        OSError(errno.ENOSPC, "No space left on device", "/tmp/x"),
        1,
        "No space left on device at /tmp/x",
    ),
}


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_every_end_has_its_code_and_sentence(
    end: str, traced: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error, code, sentence = ENDS[end]

    def fails() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    if traced:
        monkeypatch.setenv("GRAPHOPT_TRACEBACK", "1")
    else:
        monkeypatch.delenv("GRAPHOPT_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().err
    assert caught.value.code == code
    assert said.splitlines()[-1 if "hint" not in said else -2] == f"graphopt: {sentence}"
    assert ("Traceback" in said) == traced


def test_a_real_command_keeps_its_code_with_a_traceback(tmp_path: Path) -> None:
    script = Path(sysconfig.get_path("scripts"), "graphopt")
    environment = {**os.environ, "GRAPHOPT_TRACEBACK": "1"}
    for words, code in ((("inspect", "none"), 1), (("inspect", DEMO, "--device", "none"), 2)):
        done = subprocess.run([script, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == code
        assert "Traceback" in done.stderr
        assert any(line.startswith("graphopt: ") for line in done.stderr.splitlines())


def test_an_interrupt_before_anything_is_kept_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "net.onnx"
    shutil.copy(DEMO, model)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphopt.optimizer.optimize.run_pipeline", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        optimize(model, options=OptimizeOptions(preset="mobile"))
    assert not str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("error", [MemoryError(), InputError("no room", hint="make some")])
def test_a_failure_says_which_folder_it_leaves(
    tmp_path: Path, error: MemoryError | InputError
) -> None:
    model = tmp_path / "net.onnx"
    shutil.copy(DEMO, model)
    work = tmp_path / "net.opt.work"

    def stop(text: str) -> None:
        if text.startswith("fold-batchnorm"):
            (work / "last-good.onnx").write_bytes(b"")
            raise error

    with pytest.raises(Exception, match=r"memory ran out|no room") as caught:
        optimize(model, options=OptimizeOptions(preset="mobile"), progress=stop)
    assert f"the same command goes on from {work}, where the last good" in str(caught.value)


def test_the_compiler_s_memory_error_is_a_sentence(
    proto: Callable[..., onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker_out_of_memory.py").write_text(
        "import os, signal, sys; os.kill(os.getpid(), signal.SIGKILL)"
    )
    monkeypatch.setattr("graphopt.compiler.worker.WORKER", "worker_out_of_memory")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)"), path)
    monkeypatch.setattr(sys, "argv", ["graphopt", "compile", str(path), "-o", str(tmp_path / "b")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 4


@pytest.mark.parametrize("lost", ["heat", "paf"])
def test_a_pose_spec_of_other_outputs_is_refused(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a network whose outputs another tool renamed."""
    graph = load_model(DEMO)
    spec = detect_pose_spec(graph)
    renamed = {"heat": spec.heat, "paf": spec.paf}[lost]
    stale = replace(known(renamed), output=f"old_{lost}")
    path = tmp_path / "net.onnx"
    spec = replace(spec, heat=stale) if lost == "heat" else replace(spec, paf=stale)
    save_model(graph, path, metadata={"graphopt.pose": spec.to_json()})
    photo = DEMO.with_suffix(".png")
    monkeypatch.setattr(sys, "argv", ["graphopt", "run", str(path), str(photo)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "'graphopt.pose' reads " in said
    assert "and the network has no such maps" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("heat"), "KeyError: 'heat'"),
        (ValueError("no such layout"), "ValueError: no such layout"),
        (RuntimeError("first line\nInternalError: last line"), "InternalError: last line"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "memory ran out"),
    ],
)
def test_a_crash_of_the_compiler_says_what_it_was(
    error: KeyError | ValueError | RuntimeError | AssertionError | MemoryError,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from graphopt.codegen.jobs import compile_worker as worker

    def crash(*_: object) -> None:
        raise error

    monkeypatch.setattr(worker, "_TASKS", {"crash": crash})
    (tmp_path / "job.json").write_text('{"task": "crash"}')
    reading, writing = os.pipe()
    assert worker.main(tmp_path / "job.json", writing) == 1
    with os.fdopen(reading) as events:
        assert json.loads(events.read().splitlines()[-1]) == {"crash": said}
