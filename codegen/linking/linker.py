"""Linkers: object files become a shared library, for this machine or for another."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from graphopt.codegen.hosts import HOSTS, Host
from graphopt.codegen.linking.android_sdk import find_ndk
from graphopt.errors import GraphoptError, Unsupported


def link(
    objects: Sequence[Path], library: Path, host: str = "", runner: str = "libgraphopt.so"
) -> None:
    """Link objects into a shared library.

    Args:
        objects: the object files.
        library: the file to write.
        host: the triple of the machine that it is for; "" is this one.
        runner: the library there that has the functions which kernels call.

    Raises:
        Unsupported: there is no linker for it here.
        GraphoptError: the linker failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        if host:
            command = _cross_linker(HOSTS[host], Path(folder), runner)
        else:
            command = [*find_compiler(), "-shared"]
        command += ["-o", str(library), *map(str, objects)]
        _run(command)


def find_compiler() -> list[str]:
    """This machine's C compiler, which knows where its libraries are.

    Raises:
        Unsupported: there is none.
    """
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    if not _zig():
        raise Unsupported(
            "the cpu target needs a linker, and this machine has no C compiler",
            hint="install gcc or clang, or: pip install ziglang",
        )
    return [*_zig(), "cc"]


def _zig() -> list[str]:
    """The program in the package ziglang; none where that is not installed."""
    spec = importlib.util.find_spec("ziglang")
    folders = (spec.submodule_search_locations if spec else None) or []
    return [str(zig) for folder in folders if (zig := Path(folder) / "zig").is_file()][:1]


def _cross_linker(host: Host, folder: Path, runner: str) -> list[str]:
    """LLVM's linker for another machine, of whose libraries it is given the names alone."""
    linker = [*find_lld(host), "-m", host.emulation, "-shared"]
    content = folder / "content"
    content.write_bytes(b"\0")
    needed = []
    for name in host.needed(runner):
        needed.append(str(folder / name))
        _run([*linker, f"--soname={name}", "-o", needed[-1], "--format=binary", str(content)])
    # There are phones with pages of 16 KB, and Arm servers with pages of 64.
    return [*linker, "-z", "max-page-size=65536", "--no-as-needed", *needed]


def find_lld(host: Host) -> list[str]:
    """LLVM's linker: the Android NDK's, the system's, or ziglang's.

    Raises:
        Unsupported: there is none.
    """
    if ndk := find_ndk():
        for linker in (ndk / "toolchains" / "llvm" / "prebuilt").glob("*/bin/ld.lld"):
            return [str(linker)]
    if path := shutil.which("ld.lld"):
        return [path]
    if not _zig():
        raise Unsupported(
            f"kernels for {host.triple} need LLVM's linker (ld.lld), which this machine lacks",
            hint="pip install 'graphopt[android]', or install lld",
        )
    return [*_zig(), "ld.lld"]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GraphoptError(f"{command[0]} could not link the kernels: {done.stderr.strip()}")
