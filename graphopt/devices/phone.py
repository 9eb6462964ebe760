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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.devices.adb import HOME, Phone, find_phone
from graphopt.devices.android import ABI, build_runner
from graphopt.display.tables import Grid, Kind
from graphopt.errors import GraphoptError, InputError, Unsupported, UsageError
from graphopt.pose.decode import Person, Poses
from graphopt.pose.images import read_photo
from graphopt.pose.open import bundled_spec
from graphopt.pose.preprocess import extents
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.bundle import Bundle, read_bundle, sha256
from graphopt.runtime.synthetic_images import natural_photo

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
        _check(bundle.path / "kernels.so", f"{bundle.path} holds machine code", abi, hint)
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


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PhoneLayer(_Record):
    """One layer on a phone."""

    stage: str
    """prepare, network or decode."""
    layer: str
    """The ONNX node."""
    kernel: str
    ms: float
    """The median, with every launch waited for."""
    share: float
    """Of the time of all layers."""
    macs: int
    gmacs: float
    """1e9 multiply-adds a second."""


class PhoneReport(_Record):
    """What `graphopt bench --device adb` measured; its JSON form is stable."""

    model: str
    phone: str
    """Its serial number."""
    device: str
    """What the bundle ran on there: `cpu`, or the OpenCL device's name."""
    photo: str | None
    """None: a made-up one of the input's size."""
    width: int
    height: int
    people: int
    runs: int
    """How many frames the median is of."""
    load_ms: float
    first_ms: float
    """The first frame's, from pixels to people."""
    median_ms: float
    """That of later ones."""
    layers: tuple[PhoneLayer, ...]

    @classmethod
    def of(
        cls, answer: Mapping[str, Any], *, model: Path, phone: str, photo: Path | None, runs: int
    ) -> PhoneReport:
        """The report, from what graphopt-run said."""
        total = sum(layer["ms"] for layer in answer["layers"])
        layers = [
            PhoneLayer(
                **layer,
                share=layer["ms"] / total,
                # 1e6 in a millisecond are 1e9 a second.
                gmacs=1e-6 * layer["macs"] / max(layer["ms"], 1e-6),
            )
            for layer in answer["layers"]
        ]
        copied = ("device", "width", "height", "load_ms", "first_ms", "median_ms")
        return cls(
            **{key: answer[key] for key in copied},
            model=str(model),
            phone=phone,
            photo=str(photo) if photo else None,
            people=len(answer["people"]),
            runs=runs,
            layers=tuple(layers),
        )

    def __rich__(self) -> RenderableType:
        """Layer by layer, then frames."""
        columns = {"stage": Kind.WORDS, "layer": Kind.NAME, "kernel": Kind.NAME}
        columns |= dict.fromkeys(("ms", "share", "GMAC/s"), Kind.NUMBER)
        table = Grid(columns, title=f"{self.model} on {self.phone}, {self.device}")
        for layer in self.layers:
            table.add(
                layer.stage,
                layer.layer,
                layer.kernel,
                f"{layer.ms:.3f}",
                f"{layer.share:.1%}",
                f"{layer.gmacs:.1f}" if layer.macs else "",
            )
        frames = (
            f"load {self.load_ms:.0f} ms, first frame {self.first_ms:.1f} ms, then "
            f"{self.median_ms:.1f} ms (median of {self.runs}), from pixels to people"
        )
        photo = f"{self.photo or 'a made-up photo'}, {self.width} x {self.height} pixels"
        return Group(
            table,
            Text(frames, style="bold"),
            Text(f"{photo}, people: {self.people}; layers are waited for one by one", style="dim"),
        )


def bench_on_phone(
    path: Path,
    device: str,
    *,
    runner: Path | None = None,
    photo: Path | None = None,
    threads: int = 0,
    runs: int = 20,
    progress: Callable[[str], None] = lambda _: None,
) -> PhoneReport:
    """Measure a bundle on a phone.

    Args:
        path: the bundle.
        device: `adb`, or `adb:SERIAL`.
        runner: see `on_phone`.
        photo: what it looks at; without one, a made-up photo.
        threads: CPU threads of a cpu bundle; 0 takes every core.
        runs: how many frames after the first, and runs of each layer (10 at least).
        progress: told what is being done.

    Raises:
        GraphoptError: the phone cannot run it, or cannot be reached.
    """
    bundle = read_bundle(path)
    if photo is None:
        height, width = extents(next(iter(bundle.manifest.inputs.values())))
        assert height is not None  # a bundle's sizes are fixed
        assert width is not None
        pixels = natural_photo(height, width).astype(np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    else:
        picture = read_photo(photo)
    options = ["--threads", str(threads), "--repeat", str(runs), "--profile"]
    with on_phone(bundle, device, runner=runner, options=options, progress=progress) as session:
        progress("measuring")
        answer = session.look(picture)
    serial = session.phone.serial
    return PhoneReport.of(answer, model=path, phone=serial, photo=photo, runs=runs)
