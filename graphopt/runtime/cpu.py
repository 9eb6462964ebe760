"""CPU kernels, run through TVM's runtime."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import Unsupported
from graphopt.ir.arrays import Array, Shape
from graphopt.runtime.bundle import Bundle
from graphopt.runtime.levels import Level, best_level
from graphopt.runtime.plan import ALIGNMENT
from graphopt.runtime.runner import BundleRunner, byte_size, tensor_view
from graphopt.runtime.threads import CpuThreads, Result, tvm_ffi


def _aligned(size: int) -> NDArray[np.uint8]:
    """Uninitialised bytes that start at a multiple of `ALIGNMENT`."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def _weights(bundle: Bundle) -> NDArray[np.uint8]:
    """A bundle's weights, read straight into place: they are most of the memory."""
    files = bundle.level.weights
    sizes = [bundle.manifest.files[name].bytes for name in files]
    weights, start = _aligned(sum(sizes)), 0
    for name, size in zip(files, sizes, strict=True):
        with (bundle.path / name).open("rb") as file:
            file.readinto(weights[start : start + size].data)
        start += size
    return weights


def _stretched(values: Array, shape: Shape) -> Array:
    """The same memory as an array of a shape, of which kernels use only what is there.

    The caller keeps it alive.
    """
    stretched: Array = np.asarray(
        SimpleNamespace(
            __array_interface__={
                "version": 3,
                "data": (values.ctypes.data, False),
                "shape": tuple(shape),
                "typestr": values.dtype.str,
            }
        )
    )
    return stretched


def cpu_features() -> set[str]:
    """This CPU's features, as /proc/cpuinfo names them."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("flags", "Features")):  # on x86, on Arm
            return set(line.partition(":")[2].split())
    return set()


TILES = "amx_tile"
"""The feature whose registers Linux saves for processes that asked for them."""


def permit_tiles() -> None:
    """Ask Linux for the tile registers of AMX, for this process and the threads it will start.

    Raises:
        Unsupported: Linux refuses, or is older than 5.16.
    """
    arch_prctl, request, tile_data = 158, 0x1023, 18
    if ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, request, tile_data):
        raise Unsupported(
            f"this system gives no use of the CPU's AMX: {os.strerror(ctypes.get_errno())}",
            hint="compile with --cpu-features avx512_vnni",
        )


def _permitted(level: Level) -> bool:
    """Whether this system lets the CPU run a level's kernels; asks it, where it must be asked."""
    if TILES not in level.features:
        return True
    try:
        permit_tiles()
    except Unsupported:
        return False
    return True


def for_this_cpu(bundle: Bundle, level: str = "") -> Bundle:
    """A bundle at the level that this CPU runs.

    Args:
        bundle: a cpu bundle.
        level: the name of the level that it must be; by default the best that can be.

    Raises:
        InputError: it has no such level.
        Unsupported: this CPU can run none.
    """
    levels = bundle.manifest.levels
    if bundle.manifest.target.host != this_host() or not (levels or level):
        return bundle  # the runner says what is wrong with it
    what = str(bundle.path)
    return bundle.at(best_level(levels, cpu_features(), _permitted, name=level, what=what))


def this_host() -> str:
    """The machine that this is, as `--host` would call it."""
    return f"{platform.machine()}-linux-gnu"


class CpuRunner(BundleRunner):
    """Kernels of a shared library, called in order on views of the arenas; nothing is allocated."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle)
        self._require_cpu(bundle)
        if TILES in bundle.level.features:
            permit_tiles()
        self._threads = CpuThreads(threads)
        module = tvm_ffi().load_module(str(bundle.path / bundle.level.code))
        weights = _weights(bundle)
        arenas = [_aligned(size) for size in bundle.plan.arenas]
        memories = {-1: weights, **dict(enumerate(arenas))}
        self._arrays = [
            tensor_view(
                memories[t.arena] if t.arena is not None else _aligned(byte_size(t)),
                t if t.arena is not None else replace(t, offset=0),
            )
            for t in bundle.plan.tensors
        ]
        self._tensors = [tvm_ffi().from_dlpack(array) for array in self._arrays]
        self._calls = [
            (module[launch.kernel], [self._tensors[i] for i in launch.arguments])
            for launch in bundle.plan.launches
        ]

    @staticmethod
    def _require_cpu(bundle: Bundle) -> None:
        target, have = bundle.manifest.target, cpu_features()
        if target.host != this_host():
            raise Unsupported(
                f"the bundle was compiled for {target.host}, and this is {this_host()}",
                hint="compile it without --host",
            )
        missing = [f for f in bundle.level.features if f not in have]
        if missing:
            raise Unsupported(
                f"{bundle.path} was compiled for a CPU with {', '.join(missing)}, "
                "which this one lacks",
                hint="compile it on this machine",
            )

    def _launching(self, work: Callable[[], Result]) -> Result:
        return self._threads.run(work)

    def prepare(self, photo: Mapping[str, Array]) -> None:
        """See `BundleRunner.prepare`; the photo's pixels are read where they are."""
        preparation = self._plan.preparation
        assert preparation is not None
        given, own = dict(photo), self._tensors[preparation.photo]
        pixels = np.ascontiguousarray(given.pop("photo"))
        lent = tvm_ffi().from_dlpack(_stretched(pixels, own.shape))
        with self.lock:
            self._replace(own, lent)
            try:
                super().prepare(given)
            finally:
                self._replace(lent, own)

    def _replace(self, tensor: object, other: object) -> None:
        """Give kernels that prepare photos one tensor for another."""
        for i in self._stages["prepare"]:
            arguments = self._calls[i][1]
            arguments[:] = [other if a is tensor else a for a in arguments]

    def _write(self, tensor: int, value: Array) -> None:
        self._arrays[tensor].reshape(-1)[: value.size] = value.reshape(-1)

    def _launch(self, index: int) -> None:
        kernel, arguments = self._calls[index]
        kernel(*arguments)

    def wait(self) -> None:
        pass  # a launch returns when it is done

    def _read(self, tensors: Mapping[str, int]) -> dict[str, Array]:
        return {name: self._arrays[i].copy() for name, i in tensors.items()}
