"""Bundles on a phone: photos go there, people come back; and how long each layer takes there.

`graphopt-run` (codegen/device) does the work. It and the bundle are pushed once, into folders
named by what they hold, and it stays loaded from photo to photo.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from graphopt.devices.adb import HOME, Phone, find_phone
from graphopt.devices.android import ABI, build_runner
from graphopt.errors import GraphoptError, InputError, Unsupported, UsageError
from graphopt.pose.decode import Person, Poses
from graphopt.pose.open import bundled_spec
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.bundle import Bundle, read_bundle, sha256

MACHINES = MappingProxyType({3: "x86", 40: "armeabi-v7a", 62: "x86_64", 183: "arm64-v8a"})
"""What Android calls the machine that an ELF file is for, by its `e_machine`."""

ERRORS = MappingProxyType({kind.exit_code: kind for kind in (InputError, Unsupported)})
"""What graphopt-run means by its exit status."""

GRACE = 5.0
"""Seconds in which graphopt-run should end when there are no more photos."""


class Session:
    """A bundle that is loaded on a phone, and looks at photos there.

    Args:
        phone: where.
        bundle: what; pushed unless it is there.
        runner: graphopt-run for that phone; the same.
        options: more of graphopt-run's.
        scratch: a folder here for files in between.

    Raises:
        GraphoptError: the phone cannot run it, or cannot be reached.
    """

    def __init__(
        self, phone: Phone, bundle: Bundle, runner: Path, options: Sequence[str], scratch: Path
    ) -> None:
        self.phone, self.bundle = phone, bundle
        library = runner.with_name("libgraphopt.so")  # its other half, where it has one
        programs = {file: _digest(file) for file in (runner, library) if file.is_file()}
        key = sha256(" ".join(programs.values()).encode())
        program = phone.keep(key[:16], programs, f"pushing {runner.name}")
        manifest = bundle.path / "manifest.json"
        files = {bundle.path / name: file.sha256 for name, file in bundle.manifest.files.items()}
        files[manifest] = _digest(manifest)
        folder = phone.keep(files[manifest][:16], files, f"pushing {bundle.path}")
        self._name, self._here = f"{uuid4().hex}.ppm", scratch / "photo.ppm"
        self._log = scratch / "graphopt-run.log"
        words = [f"{program}/{runner.name}", folder, "--rgb", "-", "--json", "--details"]
        command = shlex.join([*words, "--cache", f"{HOME}/cache", *options])
        with self._log.open("w") as log:
            self._process = phone.start(f"cd {HOME} && exec {command}", log)

    def look(self, photo: Image.Image) -> dict[str, Any]:
        """What graphopt-run says of an RGB photo, with --json and --details."""
        photo.save(self._here)
        self.phone.push([self._here], f"{HOME}/{self._name}", "pushing a photo")
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):  # `_ended` says why
            print(self._name, file=self._process.stdin, flush=True)
        lines: list[str] = []
        for line in self._process.stdout:
            lines.append(line)
            if line.rstrip() == "]":  # all others before are indented
                answer: dict[str, Any] = json.loads("".join(lines))[0]
                return answer
        raise self._ended()

    def close(self) -> None:
        """End it; what is pushed once stays."""
        try:
            self._process.communicate(timeout=GRACE)  # it ends with its stdin
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        with suppress(GraphoptError):  # the phone went away
            self.phone.ask(f"rm -f {HOME}/{self._name}", "removing a photo")

    def _ended(self) -> GraphoptError:
        code = self._process.wait()
        words = self._log.read_text(errors="replace").strip()
        last = words.splitlines()[-1] if words else f"it ended with code {code}"
        kind = ERRORS.get(code)
        if kind and last.startswith("error: ") and self.phone.is_there():
            return kind(f"on the phone {self.phone.serial}: {last.removeprefix('error: ')}")
        return self.phone.failure("running graphopt-run", last)


@contextmanager
def on_phone(
    bundle: Bundle,
    device: str,
    *,
    runner: Path | None = None,
    options: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Session]:
    """A bundle, loaded on a phone.

    Args:
        bundle: what.
        device: `adb`, or `adb:SERIAL` where there are several.
        runner: graphopt-run for the phone; without it, one is built with the Android NDK.
        options: more of graphopt-run's.
        progress: told what is being done.

    Raises:
        GraphoptError: the phone cannot run it, or cannot be reached.
    """
    kind, _, serial = device.partition(":")
    if kind != "adb":
        raise UsageError(f"there is no device {device!r}", hint="local, adb, or adb:SERIAL")
    phone = find_phone(serial)
    abi = phone.ask("getprop ro.product.cpu.abi", "asking for its ABI").strip()
    if bundle.manifest.target.kind == "cpu":
        hint = "compile it with --host aarch64-linux-android, or with --target opencl"
        _check(bundle.path / bundle.level.code, f"{bundle.path} holds machine code", abi, hint)
    program = _runner(runner, abi, progress)
    _check(program, f"{program} is", abi, "name another with --runner")
    progress(f"pushing {bundle.path} to {phone.serial}, unless it is there")
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        session = Session(phone, bundle, program, options, Path(scratch))
        try:
            yield session
        finally:
            session.close()


def _runner(given: Path | None, abi: str, progress: Callable[[str], None]) -> Path:
    """A graphopt-run for a phone; where none is given, one that is built here."""
    if given is None and abi == ABI:
        return build_runner(progress)
    if given is None:
        raise Unsupported(
            f"nobody said where graphopt-run for {abi} is",
            hint="build codegen/device for it, and name the program with --runner",
        )
    if not given.is_file():
        raise UsageError(f"--runner names {given}, which is no file")
    return given


def _check(file: Path, what: str, abi: str, hint: str) -> None:
    """Refuse machine code for another machine than the phone."""
    with file.open("rb") as opened:
        header = opened.read(20)
    known = header[:4] == b"\x7fELF"
    machine = MACHINES.get(int.from_bytes(header[18:20], "little")) if known else None
    if machine != abi:
        raise Unsupported(
            f"{what} for {machine or 'another machine'}, and the phone is {abi}", hint=hint
        )


def _digest(file: Path) -> str:
    return sha256(file.read_bytes())


@dataclass
class PhoneEstimator:
    """Photo in, people out: `graphopt.pose.estimate.Estimator`, on a phone."""

    session: Session
    spec: PoseSpec
    min_score: float = 0.0
    overhead: float = 0.0
    """Seconds of the last call that went into the way to the phone and back."""

    def __call__(self, photo: Image.Image) -> Poses:
        """The people in an RGB photo, in its pixels."""
        start = time.perf_counter()
        answer = self.session.look(photo)
        people = [
            Person(np.array(person["keypoints"], np.float32), person["score"])
            for person in answer["people"]
            if person["score"] >= self.min_score
        ]
        self.overhead = time.perf_counter() - start - 1e-3 * answer["first_ms"]
        return Poses(tuple(people), tuple(answer["warnings"]))


@contextmanager
def estimator_on_phone(
    path: Path,
    device: str,
    *,
    runner: Path | None = None,
    threads: int = 0,
    min_score: float = 0.0,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[PhoneEstimator]:
    """A bundle on a phone, ready for photos.

    Args:
        path: the bundle.
        device, runner, progress: see `on_phone`.
        threads: CPU threads of a cpu bundle; 0 takes every core.
        min_score: people with a lower score are left out.

    Raises:
        GraphoptError: the phone cannot run it, or cannot be reached.
    """
    bundle = read_bundle(path)
    spec = bundled_spec(bundle)
    options = ["--threads", str(threads)]
    with on_phone(bundle, device, runner=runner, options=options, progress=progress) as session:
        yield PhoneEstimator(session, spec, min_score)
