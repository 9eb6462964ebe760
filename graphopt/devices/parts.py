"""What graphopt can use of a machine, and how to see whether it is there: a record a part."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.runtime import child_process as child

if TYPE_CHECKING:
    from packaging.requirements import Requirement


PATIENCE = 60.0
"""Seconds that a process which looks for something may take."""
EVERY = "every command"
"""What a part is needed for without which nothing works."""
CPU = "compile and tune for a CPU"
RUN_CPU = "run, eval and bench with cpu bundles"
RUN_OPENCL = "run, eval, bench and tune with opencl bundles"
PHONE = "run and bench with --device adb"


class Missing(Exception):
    """A part is not there, or of no use; the text says why."""


@dataclass(frozen=True)
class Part:
    """Something that commands use.

    Args:
        name: what it is.
        needed_for: commands and options.
        find: says what is there, in a few words; raises anything where that is nothing.
        install: the command that brings it, or what else to do; empty for what a machine just has.
    """

    name: str
    needed_for: str
    find: Callable[[], str]
    install: str = ""


def _python() -> str:
    from packaging.specifiers import SpecifierSet

    wanted = metadata.metadata("graphopt")["Requires-Python"]
    if platform.python_version() not in SpecifierSet(wanted, prereleases=True):
        raise Missing(f"{platform.python_version()}, but graphopt needs {wanted}")
    return f"{platform.python_version()}, {sys.executable}"


@cache
def _wanted() -> Mapping[str, Requirement]:
    """What graphopt's own metadata ask for, extras included, by the package's name."""
    from packaging.requirements import Requirement

    lines = metadata.requires("graphopt") or []
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def _packages(*names: str) -> str:
    """The versions of packages, which are those that graphopt asks for."""
    versions = []
    for name in names:
        try:
            versions.append(metadata.version(name))
        except metadata.PackageNotFoundError:
            raise Missing(f"{name} is not installed") from None
        wanted = _wanted().get(name)
        if wanted and not wanted.specifier.contains(versions[-1], prereleases=True):
            raise Missing(f"{name} is {versions[-1]}, but graphopt needs {wanted.specifier}")
    return ", ".join(versions)


def _child(command: Sequence[str]) -> str:
    """What a Python process of its own says."""
    try:
        done = child.run(command, PATIENCE)
    except subprocess.TimeoutExpired:
        raise Missing(f"no answer within {PATIENCE:.0f} seconds") from None
    if done.returncode < 0:
        raise Missing(f"it crashes (signal {-done.returncode})")
    if done.returncode:
        raise Missing((done.stderr.strip().splitlines() or ["it fails, and does not say why"])[-1])
    return "; ".join(done.stdout.split("\n")).strip("; ")


START = child.program(
    "import graphopt.ir.onnx_io, graphopt.pose.estimate, graphopt; print(graphopt.__version__)"
)


TVM = """
import sys; sys.modules["torch"] = None  # which tvm_ffi would load, and nobody here asks for
import ctypes, importlib.util, pathlib, tvm_ffi
(root,) = importlib.util.find_spec("tvm").submodule_search_locations
ctypes.CDLL(str(pathlib.Path(root) / "lib" / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
print("loads")
"""


OPENCL = """
import pyopencl
for platform in pyopencl.get_platforms():
    for device in platform.get_devices():
        print(f"{device.name.strip()} ({platform.name.strip()})")
"""


def _opencl() -> str:
    devices = _child(child.program(OPENCL))
    if not devices:
        raise Missing("there is no device")
    return devices


def _mnn() -> str:
    name = os.environ.get("GRAPHOPT_MNN", "")
    python = shutil.which(name)
    if python is None:
        raise Missing(f"GRAPHOPT_MNN names no Python: {name}" if name else "GRAPHOPT_MNN is unset")
    text = "from importlib.metadata import version; print(version('MNN'))"
    return _child([python, "-I", "-c", text])


def _program(*names: str) -> str:
    """The first program that is there, and where."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise Missing(f"there is no {' or '.join(names)} on PATH")
    return found


def _linker() -> str:
    from graphopt.codegen.linking.linker import find_compiler

    return " ".join(find_compiler())


def _cross_linker() -> str:
    from graphopt.codegen.hosts import HOSTS
    from graphopt.codegen.linking.linker import find_lld

    return " ".join(find_lld(HOSTS["aarch64-linux-android"]))


def _ndk() -> str:
    from graphopt.codegen.linking.android_sdk import find_ndk

    found = find_ndk()
    if found is None:
        raise Missing("ANDROID_NDK_HOME names none, and there is none below ANDROID_HOME")
    return str(found)


def _phones() -> str:
    from graphopt.devices.adb import phones

    seen = phones()
    if not seen:
        raise Missing("adb sees none")
    states = [f"{serial} ({state})" for serial, state in seen.items()]
    if "device" not in seen.values():
        raise Missing(f"none is ready: {', '.join(states)}")
    return ", ".join(states)


def _vectors() -> str:
    from graphopt.codegen.targets.cpu import VECTOR_UNITS
    from graphopt.runtime.cpu import cpu_features

    have = cpu_features()
    names = [name for name, unit in VECTOR_UNITS.items() if have.issuperset(unit.features)]
    if not names:
        raise Missing(f"none of {', '.join(VECTOR_UNITS)}")
    return names[0]


def _machine() -> str:
    sizes = dict(
        re.findall(
            r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    total, free = (int(sizes[key]) / 1e6 for key in ("MemTotal", "MemAvailable"))
    threads = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {threads} threads, {total:.1f} GB of memory ({free:.1f} free)"


PLUG_IN = """
import sys
from importlib.metadata import entry_points
from graphopt.optimizer.registry import GROUP, Broken, plugged_in
points = entry_points(group=GROUP, name=sys.argv[1])
found = [held for point in points for held in plugged_in(point)]
for held in found:
    if isinstance(held, Broken):
        sys.exit(held.reason)
sys.__stdout__.write(", ".join(sorted(held.name for held in found)))
"""


def _plug_in(point: metadata.EntryPoint) -> str:
    """The passes that an entry point brings, and what it is a part of."""
    names = _child(child.program(PLUG_IN, point.name))
    return f"{names} ({point.dist.name} {point.dist.version})" if point.dist else names


def _plug_ins() -> tuple[Part, ...]:
    return tuple(
        Part(
            f"plug-in {point.name}",
            "its passes in optimize, explain and passes",
            partial(_plug_in, point),
            "repair it, or pip uninstall " + (point.dist.name if point.dist else point.value),
        )
        for point in metadata.entry_points(group="graphopt.passes")
    )


def parts() -> tuple[Part, ...]:
    """All that there is to look for, in the order in which it is shown."""
    required = (
        *((name, EVERY) for name in ("numpy", "onnx", "onnx-graphsurgeon", "pillow", "pydantic")),
        *((name, EVERY) for name in ("rich", "scipy", "typer")),
        ("onnxruntime", "optimize, compile, compare and bench; run and eval of ONNX files"),
        ("apache-tvm", f"{CPU} or OpenCL; {RUN_CPU}"),
        ("apache-tvm-ffi", f"{CPU} or OpenCL; {RUN_CPU}"),
    )
    return (
        Part("machine", EVERY, _machine),
        Part("vector unit", CPU, _vectors, "compile with --target opencl"),
        Part("Python", EVERY, _python, "make a virtual environment of another Python"),
        Part("graphopt", EVERY, partial(_child, START), "repair what is missing below"),
        *(Part(n, what, partial(_packages, n), _pip(n)) for n, what in required),
        *_compilers(),
        *_extras(),
        *_rivals(),
        *_for_phones(),
        *_plug_ins(),
    )


def _compilers() -> tuple[Part, ...]:
    """What compiles, and runs, bundles."""
    return (
        Part(
            "TVM's runtime",
            RUN_CPU,
            partial(_child, child.program(TVM)),
            _pip("apache-tvm", "apache-tvm-ffi"),
        ),
        Part("linker", CPU, _linker, "apt install gcc, or: pip install ziglang"),
        Part("linker for phones", "compile --host", _cross_linker, _extra("android")),
        Part("pyopencl", RUN_OPENCL, partial(_packages, "pyopencl"), _extra("opencl")),
        Part("OpenCL device", RUN_OPENCL, _opencl, _extra("opencl")),
    )


def _extras() -> tuple[Part, ...]:
    """What single options need."""
    return (
        Part("pycocotools", "eval", partial(_packages, "pycocotools"), _extra("eval")),
        Part(
            "video",
            "run with videos, --track, --smooth",
            partial(_packages, "imageio", "imageio-ffmpeg"),
            _extra("video"),
        ),
        Part("PyTorch", "optimize --distill", partial(_packages, "torch"), _extra("distill")),
    )


def _rivals() -> tuple[Part, ...]:
    """Engines to be compared with."""
    return (
        Part(
            "OpenVINO",
            "bench --vs openvino",
            partial(_packages, "openvino"),
            "pip install openvino",
        ),
        Part(
            "ncnn",
            "bench --vs ncnn",
            partial(_packages, "ncnn", "pnnx"),
            "pip install ncnn && pip install --no-deps pnnx",
        ),
        Part(
            "MNN",
            "bench --vs mnn",
            _mnn,
            "python3 -m venv mnn && mnn/bin/pip install MNN numpy && "
            "export GRAPHOPT_MNN=$PWD/mnn/bin/python",
        ),
        Part(
            "tinygrad",
            "bench --vs tinygrad",
            partial(_packages, "tinygrad"),
            "pip install tinygrad 'pyopencl[pocl]'",
        ),
    )


def _for_phones() -> tuple[Part, ...]:
    """What the device runner needs, and phones."""
    return (
        Part("adb", PHONE, partial(_program, "adb"), "apt install adb"),
        Part("phone", PHONE, _phones, "plug one in, and allow USB debugging on it"),
        Part(
            "C++ compiler",
            "the device runner on this machine",
            partial(_program, "c++", "g++", "clang++"),
            "apt install g++",
        ),
        Part("CMake", "the device runner", partial(_program, "cmake"), "pip install cmake ninja"),
        Part(
            "Android NDK",
            "android build; run and bench with --device adb",
            _ndk,
            'sdkmanager "ndk;27.2.12479018" && '
            "export ANDROID_NDK_HOME=$ANDROID_HOME/ndk/27.2.12479018",
        ),
    )


def _pip(*names: str) -> str:
    """The command that installs packages in versions that will do."""
    try:
        wanted = {name: str(_wanted()[name].specifier) for name in names}
    except Exception:  # what says so is itself missing
        wanted = dict.fromkeys(names, "")
    return " ".join(["pip install", *(f"'{name}{what}'" for name, what in wanted.items())])


def _extra(name: str) -> str:
    return f"pip install 'graphopt[{name}]'"
