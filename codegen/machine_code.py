"""TIR kernels -> a shared library for this CPU, or OpenCL C for any device."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tvm
from tvm import s_tir, tirx

from graphopt.bundle import Plan
from graphopt.codegen.targets import Target
from graphopt.errors import GraphoptError, Unsupported


class LaunchShape(NamedTuple):
    """How a kernel is launched: parameters of the TIR function by position, and work sizes."""

    kernel: str
    arguments: tuple[int, ...]
    grid: tuple[int, ...]
    group: tuple[int, ...]


def tvm_target(target: Target) -> Any:
    """TVM's own object for a target."""
    device = tvm.target.Target(target.tvm)
    return device if target.kind == "cpu" else tvm.target.Target(device, host="llvm")


def shared_library(
    functions: Mapping[str, Any], device: Any, progress: Callable[[str], None]
) -> bytes:
    """Compile with LLVM and link; each kernel is the symbol `__tvm_ffi_NAME`.

    Raises:
        Unsupported: there is no linker on this machine.
    """
    linker = _linker()
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        # One module a kernel, so that a crash inside LLVM is known by the kernel's name.
        for name, function in functions.items():
            progress(f"code {name}")
            module = tvm.IRModule({name: function.with_attr("global_symbol", name)})
            built = tvm.tirx.build(module, target=device, pipeline="s_tir")
            objects.append(str(Path(folder) / f"{len(objects)}.o"))
            built.write_to_file(objects[-1])
        library = Path(folder) / "kernels.so"
        command = [*linker, "-shared", "-o", str(library), *objects]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GraphoptError(f"{linker[0]} could not link the kernels: {done.stderr.strip()}")
        return library.read_bytes()


def _linker() -> list[str]:
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    try:
        import ziglang  # noqa: F401
    except ImportError:
        raise Unsupported(
            "the cpu target needs a linker, and this machine has no C compiler",
            hint="install gcc or clang, or: pip install ziglang",
        ) from None
    return ["python", "-m", "ziglang", "cc"]
