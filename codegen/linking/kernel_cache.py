"""Code of kernels that were compiled before, kept in the user's cache folder.

A kernel's code is found by all that it is made from: its TIR, the target, the versions of TVM and
LLVM, and the text of this package. So networks that have kernels in common, the levels of a bundle
and what is compiled again with other options take no time for those.

The folder is `graphopt/kernels` in XDG_CACHE_HOME (`~/.cache`), or the one that
GRAPHOPT_KERNEL_CACHE names; where that is empty, nothing is kept. Processes may share it. A damaged
file is one that is not there. Nothing that goes wrong with the folder is an error.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from graphopt.ir.version import VERSION
from graphopt.runtime.cpu import this_host

VARIABLE = "GRAPHOPT_KERNEL_CACHE"
LIMIT = 256 << 20
"""Bytes that the folder holds: some thousands of kernels. Those not used for longest go."""

_DIGEST = hashlib.sha256().digest_size


def made_once(what: str, function: Any, target: Any, make: Callable[[], bytes]) -> bytes:
    """A kernel's code: what was kept of it, or else what `make` makes.

    Args:
        what: which kind of code, and how it is made.
        function: the kernel's TIR, with its name.
        target: TVM's target.
        make: compiles it.
    """
    folder = _folder()
    if folder is None:
        return make()
    parts = [_makers(), what, tvm.ir.save_json(target), tvm.ir.save_json(function)]
    file = folder / hashlib.sha256("\0".join(parts).encode()).hexdigest()
    code = _read(file)
    if code is None:
        code = make()
        with suppress(OSError):
            _write(file, code)
    return code


def tidy() -> None:
    """Remove the files that were not used for longest, where all are more than `LIMIT`."""
    folder = _folder()
    if folder is None:
        return
    with suppress(OSError):
        files = [(entry.stat(), entry.path) for entry in os.scandir(folder) if entry.is_file()]
        size = sum(found.st_size for found, _ in files)
        for found, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if size <= LIMIT:
                break
            with suppress(OSError):  # another process was faster
                Path(path).unlink()
            size -= found.st_size


def _folder() -> Path | None:
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return Path(home, "graphopt", "kernels")


def _read(file: Path) -> bytes | None:
    try:
        content = file.read_bytes()
        os.utime(file)
    except OSError:
        return None
    digest, code = content[:_DIGEST], content[_DIGEST:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(file: Path, code: bytes) -> None:
    """Write a file that is there whole or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        fresh = Path(place) / file.name
        fresh.write_bytes(hashlib.sha256(code).digest() + code)
        fresh.replace(file)


@cache
def _makers() -> str:
    """What makes code of TIR, as text that changes with it."""
    sources = [file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))]
    llvm = tvm.target.codegen.llvm_version_major()
    versions = [VERSION, tvm.__version__, tvm_ffi.__version__, llvm, this_host()]
    return " ".join([*map(str, versions), hashlib.sha256(b"\0".join(sources)).hexdigest()])
