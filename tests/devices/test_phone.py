"""Bundles on a phone, through a stand-in for adb: what is found, pushed and refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphopt.cli import main
from graphopt.runtime.bundle import sha256

FAKE = Path(__file__).with_name("fake_adb.py")
PHOTO = Path(__file__).resolve().parents[2] / "examples" / "demo.png"


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


class Phone:
    """The stand-in's phone, and the command line that reaches it."""

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        monkeypatch: pytest.MonkeyPatch,
        capture: pytest.CaptureFixture[str],
    ) -> None:
        self.folder, self.bundle = folder, bundle
        self._patch, self._capture = monkeypatch, capture

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(f"FAKE_{name}", value)

    def graphopt(self, *arguments: str | Path) -> Done:
        self._patch.setattr(sys, "argv", ["graphopt", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *self._capture.readouterr())

    def log(self) -> list[str]:
        """The calls of adb since the last look."""
        log = self.folder / "log"
        calls = log.read_text().splitlines()
        log.unlink()
        return calls

    def pushed(self) -> list[str]:
        """What was pushed since the last look, by name."""
        pushes = [call.split()[3:-1] for call in self.log() if " push " in call]
        return [Path(file).name for files in pushes for file in files]


@pytest.fixture
def phone(
    runner: Path,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Phone:
    tools, folder = tmp_path / "tools", tmp_path / "phone"
    tools.mkdir()
    folder.mkdir()
    monkeypatch.chdir(tmp_path)  # where `run` draws
    (tools / "adb").write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{FAKE}" "$@"\n')
    (tools / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GRAPHOPT_RUNNER", str(runner))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    made = Phone(folder, bundle("cpu"), monkeypatch, capsys)
    made.set(ADB=str(folder), PHONES='{"one": "device"}')
    return made


def people(file: Path) -> list[Any]:
    """The people of each photo of a --json, as arrays."""
    return [
        [np.array(person["keypoints"]) for person in photo["people"]]
        for photo in json.loads(file.read_text())
    ]


def test_a_phone_finds_what_this_machine_finds(phone: Phone, tmp_path: Path) -> None:
    with Image.open(PHOTO) as photo:
        exif = photo.getexif()
        exif[0x0112] = 6  # lies on its side
        turned = photo.convert("RGB").transpose(Image.Transpose.ROTATE_90)
        turned.save(tmp_path / "turned.png", exif=exif)
    arguments = ("run", phone.bundle, PHOTO, tmp_path / "turned.png", "--json", tmp_path / "json")
    here = phone.graphopt(*arguments, "-o", tmp_path / "here")
    assert here.code == 0, here.stderr
    wanted = people(tmp_path / "json")
    done = phone.graphopt(*arguments, "-o", tmp_path / "there", "--device", "adb")
    assert done.code == 0, done.stderr
    assert all(len(found) >= 4 for found in wanted)
    for got, found in zip(people(tmp_path / "json"), wanted, strict=True):
        np.testing.assert_allclose(got, found, atol=0.002)
    entries = json.loads((tmp_path / "json").read_text())
    assert [entry["image"] for entry in entries] == [str(path) for path in arguments[2:4]]
    assert all(f": {len(found)} people, " in done.stdout for found in wanted)
    for name in ("demo.png", "turned.png"):
        one, other = (np.asarray(Image.open(tmp_path / f / name)) for f in ("here", "there"))
        assert np.abs(one.astype(int) - other).mean() < 0.1
    assert not list((phone.folder / "graphopt").glob("*.ppm"))


def test_bundles_are_pushed_once_and_whole(phone: Phone) -> None:
    run = ("run", phone.bundle, PHOTO, "--device", "adb:one")
    everything = {file.name for file in phone.bundle.iterdir()} | {"graphopt-run", "photo.ppm"}
    assert phone.graphopt(*run).code == 0
    assert everything <= set(phone.pushed()) <= everything | {"libgraphopt.so"}
    assert phone.graphopt(*run).code == 0
    assert phone.pushed() == ["photo.ppm"]
    key = sha256((phone.bundle / "manifest.json").read_bytes())[:16]
    there = phone.folder / "graphopt" / key
    assert {file.name for file in there.iterdir()} == {file.name for file in phone.bundle.iterdir()}
    (there / "weights.bin").write_bytes(b"half")
    assert phone.graphopt(*run).code == 0
    assert "weights.bin" in phone.pushed()
    assert (there / "weights.bin").read_bytes() == (phone.bundle / "weights.bin").read_bytes()


def test_people_with_lower_scores_are_left_out(phone: Phone, tmp_path: Path) -> None:
    counts = []
    for device in ("local", "adb"):
        arguments = ("run", phone.bundle, PHOTO, "--device", device, "--json", tmp_path / "json")
        assert phone.graphopt(*arguments).code == 0
        (entry,) = json.loads((tmp_path / "json").read_text())
        scores = sorted(person["score"] for person in entry["people"])
        assert phone.graphopt(*arguments, "--min-score", str(scores[1] - 1e-4)).code == 0
        counts.append([len(found) for found in people(tmp_path / "json")])
        assert counts[-1] == [len(scores) - 1]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("photo", [None, PHOTO])
def test_bench_shows_a_phones_layers(photo: Path | None, phone: Phone, tmp_path: Path) -> None:
    arguments: list[str | Path] = ["bench", phone.bundle, "--device", "adb", "--num-runs", "2"]
    arguments += ["--photo", photo] if photo else []
    done = phone.graphopt(*arguments, "--result-json", tmp_path / "result.json")
    assert done.code == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    layers = result.pop("layers")
    plan = json.loads((phone.bundle / "plan.json").read_bytes())
    keys = ("stage", "layer", "kernel", "macs")
    # Photos larger than the kernels are for are prepared without them.
    stages = ("network", "decode") if photo else ("prepare", "network", "decode")
    wanted = [
        tuple(launch[key] for key in keys)
        for stage in stages
        for launch in plan["launches"]
        if launch["stage"] == stage
    ]
    assert [tuple(layer[key] for key in keys) for layer in layers] == wanted
    assert sum(layer["share"] for layer in layers) == pytest.approx(1)
    for layer in layers:
        assert layer["gmacs"] == pytest.approx(layer["macs"] / layer["ms"] * 1e-6)
        assert f" {layer['kernel']} " in done.stdout
    assert all(result.pop(f"{name}_ms") > 0 for name in ("load", "first", "median"))
    assert result.pop("people") >= 4 or not photo
    size = (1312, 736) if photo else (456, 256)
    assert result == {
        "model": str(phone.bundle),
        "phone": "one",
        "device": "cpu",
        "photo": str(photo) if photo else None,
        "width": size[0],
        "height": size[1],
        "runs": 2,
    }


REFUSALS: dict[str, tuple[dict[str, str], str, int, str]] = {
    "no phone": ({"PHONES": "{}"}, "adb", 4, "adb sees no phone"),
    "another phone": ({}, "adb:two", 4, "adb sees no phone two\n  hint: it sees one"),
    "two phones": (
        {"PHONES": '{"one": "device", "two": "device"}'},
        "adb",
        1,
        "there are several phones: one, two\n  hint: --device adb:one",
    ),
    "unauthorised": ({"PHONES": '{"one": "unauthorized"}'}, "adb", 4, "has not allowed this"),
    "offline": ({"PHONES": '{"one": "offline"}'}, "adb:one", 4, "the phone one does not answer"),
    "no rules": (
        {"PHONES": '{"one": "no permissions (user in plugdev group; see [http://x])"}'},
        "adb",
        4,
        "udev rules",
    ),
    "recovery": ({"PHONES": '{"one": "recovery"}'}, "adb", 4, "is in the state 'recovery'"),
    "another machine": ({"ABI": "armeabi-v7a"}, "adb", 4, "and the phone is armeabi-v7a"),
    "full": (
        {"FAILS": "weights.bin", "SAYS": "adb: error: remote write: No space left on device"},
        "adb",
        1,
        "the phone one is full (pushing ",
    ),
    "gone while pushing": (
        {"FAILS": "weights.bin", "SAYS": "adb: error: connect failed: closed", "GONE": "1"},
        "adb",
        4,
        "the phone one went away (pushing ",
    ),
    "gone while running": (
        {"FAILS": "--details", "SAYS": "error: closed", "GONE": "1"},
        "adb",
        4,
        "the phone one went away (",
    ),
    "killed": ({"FAILS": "--details", "SAYS": "Killed"}, "adb", 4, "running graphopt-run failed"),
    "no device": ({}, "usb", 2, "there is no device 'usb'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_done_is_a_sentence(case: str, phone: Phone, tmp_path: Path) -> None:
    variables, device, code, complaint = REFUSALS[case]
    phone.set(**variables)
    output = tmp_path / "out.png"
    done = phone.graphopt("run", phone.bundle, PHOTO, "--device", device, "-o", output)
    assert done.code == code, done.stderr
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not output.exists()
    assert not list(phone.folder.rglob("*.fresh")) or "GONE" in variables


def test_only_the_phone_that_is_ready_is_taken(phone: Phone) -> None:
    phone.set(PHONES='{"two": "offline", "one": "device"}')
    assert phone.graphopt("run", phone.bundle, PHOTO, "--device", "adb").code == 0


def test_what_graphopt_run_says_is_passed_on(phone: Phone, tmp_path: Path) -> None:
    Image.new("RGB", (32769, 1)).save(tmp_path / "wide.png")
    done = phone.graphopt("run", phone.bundle, tmp_path / "wide.png", "--device", "adb")
    assert done.code == 1
    assert "on the phone one: cannot read " in done.stderr
    assert "its header has too large a number" in done.stderr


def test_no_adb_is_a_sentence(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    done = phone.graphopt("bench", phone.bundle, "--device", "adb")
    assert done.code == 4
    assert "adb is not installed" in done.stderr


def test_wrong_use_is_a_sentence(
    phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("run", phone.bundle, PHOTO, "--device", "adb")
    done = phone.graphopt(*run, "--mean", "1", "--engine", "graphopt")
    assert done.code == 2
    assert "--engine, --mean: a phone runs a bundle as it was compiled" in done.stderr
    done = phone.graphopt("bench", phone.bundle, "--device", "adb", "--vs", "onnxruntime")
    assert (done.code, "--vs: a phone runs a bundle" in done.stderr) == (2, True)
    onnx = PHOTO.with_name("demo.onnx")
    assert "demo.onnx is not a bundle" in phone.graphopt("run", onnx, *run[2:]).stderr
    monkeypatch.delenv("GRAPHOPT_RUNNER")
    done = phone.graphopt(*run)
    assert (done.code, "name the program with --runner" in done.stderr) == (4, True)
    done = phone.graphopt(*run, "--runner", tmp_path / "none")
    assert (done.code, "which is no file" in done.stderr) == (2, True)
    (tmp_path / "script").write_text("#!/bin/sh\n")
    done = phone.graphopt(*run, "--runner", tmp_path / "script")
    assert (done.code, "script is for another machine" in done.stderr) == (4, True)
    other = tmp_path / "other.graphopt"
    shutil.copytree(phone.bundle, other)

    def kernels_for(machine: int) -> None:
        kernels = bytearray((other / "kernels.so").read_bytes())
        kernels[18:20] = machine.to_bytes(2, "little")
        (other / "kernels.so").write_bytes(kernels)
        manifest = json.loads((other / "manifest.json").read_text())
        manifest["files"]["kernels.so"]["sha256"] = sha256(bytes(kernels))
        (other / "manifest.json").write_text(json.dumps(manifest))

    kernels_for(3)
    done = phone.graphopt("run", other, *run[2:])  # refused before a runner is missed
    assert done.code == 4
    assert f"{other} holds machine code for x86, and the phone is" in done.stderr
    kernels_for(183)
    monkeypatch.setenv("FAKE_ABI", "arm64-v8a")
    for name in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    done = phone.graphopt("run", other, *run[2:])
    assert (done.code, "there is no Android NDK to build the runner" in done.stderr) == (4, True)
    assert not [call for call in phone.log() if " push " in call]
