"""Bundles on Android phones: the device runner built with the NDK, and all of it in one folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from graphopt.codegen.linking.android_sdk import find_ndk, of_sdk
from graphopt.errors import InputError, Unsupported
from graphopt.ir.files import check_writable, whole_folder
from graphopt.runtime.bundle import Bundle, read_bundle, sha256

ABI, HOST = "arm64-v8a", "aarch64-linux-android"
"""The phones that are built for, as Android and as `--host` calls them."""

SOURCES = Path(__file__).parents[1] / "codegen" / "device"
"""The runner's C++, in a clone and where graphopt is installed."""

PROGRAM, LIBRARY = "graphopt-run", "libgraphopt.so"
_TEXTS = ("graphopt.h", "LICENSE", "NOTICE")

NO_NDK = (
    'install r26 or later: sdkmanager "ndk;27.2.12479018", or the zip of '
    "https://developer.android.com/ndk/downloads; then: export ANDROID_NDK_HOME=FOLDER\n"
    "  Only the runner needs it: bundles, a cpu bundle's kernels.so too, are linked already"
)


def find_cmake() -> str | None:
    """CMake, the one on the path or the newest of the Android SDK's; None where there is none."""
    found = [shutil.which("cmake", path=place / "bin") for place in of_sdk("cmake")]
    return next((path for path in (shutil.which("cmake"), *found) if path), None)


def build_runner(progress: Callable[[str], None] = lambda _: None) -> Path:
    """The program graphopt-run for phones (arm64-v8a), with libgraphopt.so beside it.

    It is built with CMake and the NDK when it is first wanted, and kept in the user's cache folder
    (XDG_CACHE_HOME).

    Args:
        progress: told what is being done.

    Raises:
        Unsupported: there is no NDK or no CMake, or they cannot build it.
    """
    ndk, cmake = find_ndk(), find_cmake()
    if ndk is None:
        raise Unsupported("there is no Android NDK to build the runner with", hint=NO_NDK)
    if cmake is None:
        raise Unsupported(
            "there is no CMake to build the runner with", hint="pip install cmake ninja"
        )
    kept = _cache() / _identity(ndk)
    if not (kept / PROGRAM).is_file():
        progress(f"building the runner for {ABI}")
        try:
            with tempfile.TemporaryDirectory() as folder, whole_folder(kept) as fresh:
                _build(cmake, ndk, Path(folder))
                for name in (PROGRAM, LIBRARY):
                    shutil.copy(Path(folder) / name, fresh)
        except OSError as error:
            raise InputError(f"cannot keep the runner in {kept}: {error.strerror}") from error
    return kept / PROGRAM


def _cache() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "graphopt" / "runner"


def _identity(ndk: Path) -> str:
    """Changes with the sources and the NDK."""
    files = sorted(path for path in SOURCES.iterdir() if path.is_file())
    parts = [part for path in files for part in (path.name.encode(), path.read_bytes())]
    properties = ndk / "source.properties"  # its version
    parts += [bytes(ndk), properties.read_bytes() if properties.is_file() else b""]
    return sha256(b"".join(sha256(part).encode() for part in parts))[:16]


def _build(cmake: str, ndk: Path, folder: Path) -> None:
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = [cmake, "--preset", "android-arm64", "-S", str(SOURCES), "-B", str(folder), *ninja]
    for command in (configure, [cmake, "--build", str(folder), "--parallel"]):
        done = subprocess.run(
            command,
            env=os.environ | {"ANDROID_NDK_HOME": str(ndk)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unsupported(
                f"the NDK {ndk} cannot build the runner:\n{done.stdout[-2000:].strip()}",
                hint="r26 or later is needed, CMake 3.21 or later, and ninja or make "
                "(pip install cmake ninja)",
            )


def check_for_phones(bundle: Bundle) -> None:
    """Refuse a bundle that no phone can run.

    Raises:
        Unsupported: says why.
    """
    host = bundle.manifest.target.host
    if host not in ("", HOST):
        raise Unsupported(
            f"{bundle.path} was compiled for {host}, not for phones",
            hint=f"compile it again with --host {HOST}, or for their GPU with --target adreno",
        )
    if bundle.plan.decoder is None:
        raise Unsupported(
            f"{bundle.path} has no decoder, so that the runner could not make people of its maps",
            hint="compile it again without --post none",
        )


def build(path: Path, output: Path, progress: Callable[[str], None] = lambda _: None) -> None:
    """Lay out all that a phone needs to run a bundle.

        arm64-v8a/graphopt-run      a program for `adb shell`
        arm64-v8a/libgraphopt.so    the same for an app
        graphopt.h                  its interface
        bundle/                     the bundle
        LICENSE, NOTICE             what graphopt and its parts ask for

    Args:
        path: the bundle.
        output: the folder, whole or not at all; an older one is replaced.
        progress: told what is being done.

    Raises:
        InputError: not a bundle, or the folder cannot be written or holds something else.
        Unsupported: no phone can run the bundle, or the runner cannot be built here.
    """
    bundle = read_bundle(path)
    check_for_phones(bundle)
    _check_place(path, output)
    program = build_runner(progress)
    progress(f"writing {output}")
    try:
        with whole_folder(output) as fresh:
            (fresh / ABI).mkdir()
            for name in (PROGRAM, LIBRARY):
                shutil.copy(program.with_name(name), fresh / ABI)
            (fresh / "bundle").mkdir()
            for name in (*bundle.manifest.files, "manifest.json"):
                shutil.copy(path / name, fresh / "bundle")
            for name in _TEXTS:
                shutil.copy(SOURCES / name, fresh)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from error


def _check_place(path: Path, output: Path) -> None:
    """Refuse an output that would replace something else."""
    if output.resolve() in (path.resolve(), *path.resolve().parents):
        raise InputError(f"the output {output} holds the input", hint="choose another with -o")
    if output.exists():
        theirs = {ABI, "bundle", *_TEXTS}
        if not output.is_dir() or {file.name for file in output.iterdir()} != theirs:
            raise InputError(
                f"{output} exists, and is not what this command writes",
                hint="give another folder to -o, or remove it",
            )
    check_writable(output)
