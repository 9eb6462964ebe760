"""Runs a bundle here: CPU kernels through TVM's runtime, OpenCL kernels through pyopencl.

Both walk the same static plan; the device runner for phones does it the same way.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import InputError, Unsupported
from graphopt.ir.arrays import Array, Shape
from graphopt.runtime.bundle import ALIGNMENT, Bundle, Launch, Stage, Tensor, read_bundle
from graphopt.runtime.engine import as_type
from graphopt.runtime.threads import CpuThreads, Result, environment, tvm_ffi

POCL_THREADS = ("POCL_MAX_PTHREAD_COUNT", "POCL_CPU_MAX_CU_COUNT")
"""Where PoCL (OpenCL on the CPU) reads its number of threads, once a process."""


@dataclass(frozen=True)
class LayerTime:
    """The time of one layer.

    Args:
        layer: the ONNX node.
        kernel: its kernel, or the first of them.
        ms: median milliseconds.
        macs: multiply-adds.
        bytes: of all tensors that the kernel reads or writes, each counted once.
    """

    layer: str
    kernel: str
    ms: float
    macs: int
    bytes: int = 0


def open_bundle(path: Path, *, threads: int = 0) -> BundleRunner:
    """A bundle, ready to run.

    Args:
        path: the bundle's folder.
        threads: CPU threads; 0 takes every core that the process may use. PoCL, whose threads serve
            the whole process, takes the number of the OpenCL bundle that is opened first.

    Raises:
        InputError: no bundle, or a damaged one.
        Unsupported: this machine cannot run it; the message says what it lacks.
    """
    bundle = read_bundle(path)
    runner = CpuRunner if bundle.manifest.target.kind == "cpu" else OpenClRunner
    return runner(bundle, threads)


class BundleRunner(ABC):
    """What both kinds share: inputs checked, layers timed."""

    name = "graphopt"

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._plan = bundle.plan
        self._lock = threading.RLock()
        self._set_by: int | None = None  # the thread that set the input last
        self.inputs: Mapping[str, Shape] = dict(bundle.manifest.inputs)
        self.outputs: Sequence[str] = list(bundle.manifest.outputs)
        self._stages: dict[Stage, list[int]] = {"prepare": [], "network": [], "decode": []}
        for i, launch in enumerate(self._plan.launches):
            self._stages[launch.stage].append(i)

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held from setting inputs to reading results, which lie in the runner's own memory.

        `run` and `profile` hold it themselves. Threads that call the steps one by one hold it
        around them; without it, a step on what another thread has set is refused.
        """
        return self._lock

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; threads that share the runner take turns."""
        with self._lock:
            self.begin(feeds)
            return self.maps()

    def begin(self, feeds: Mapping[str, Array]) -> None:
        """Start the network; `maps` and `people` wait for it."""
        with self._lock:
            self.feed(feeds)
            self.start()

    def feed(self, feeds: Mapping[str, Array]) -> None:
        """Set the network's inputs."""
        checked = self._check(feeds)
        with self._lock:
            self._set_by = threading.get_ident()
            for name, value in checked.items():
                self._write(self._plan.inputs[name], value)

    def prepare(self, photo: Mapping[str, Array]) -> None:
        """Set the network's input to a photo, which kernels scale and pad.

        Only a bundle that has a preparation can.

        Args:
            photo: what its tensors should hold, by the fields of `runtime.bundle.Preparation`;
                fewer numbers than one holds are its first.
        """
        with self._lock:
            self._set_by = threading.get_ident()
            for name, value in photo.items():
                self._write(getattr(self._plan.preparation, name), value)
            self._run("prepare")

    def start(self) -> None:
        """Start the network on the input that was set; `maps` and `people` wait for it."""
        with self._own_input():
            self._run("network")

    def maps(self) -> dict[str, Array]:
        """Every output of the network by name, after `begin`."""
        with self._own_input():
            return self._read(self._plan.outputs)

    def people(self, thresholds: Array) -> dict[str, Array]:
        """What the decoder's kernels say of who is there (`pose.kernel_decoder`), after `begin`.

        Only a bundle that has a decoder can.
        """
        decoder = self._plan.decoder
        assert decoder is not None
        with self._own_input():
            self._write(decoder.thresholds, np.asarray(thresholds, np.float32))
            self._run("decode")
            return self._read(decoder.outputs)

    def profile(self, feeds: Mapping[str, Array], runs: int = 10) -> list[LayerTime]:
        """Median time of every layer of the network, each waited for."""
        with self._lock:
            self.feed(feeds)
            return self._launching(lambda: self._layer_times(runs))

    @contextmanager
    def _own_input(self) -> Iterator[None]:
        """The lock, for a step on what this thread has set.

        Raises:
            InputError: another thread has set something else since.
        """
        with self._lock:
            if self._set_by not in (None, threading.get_ident()):
                raise InputError(
                    "another thread has set the input of this runner meanwhile",
                    hint="call run, or hold the runner's lock from setting inputs to reading",
                )
            yield

    def _run(self, stage: Stage) -> None:
        def launch() -> None:
            for i in self._stages[stage]:
                self._launch(i)

        self._launching(launch)

    def _launching(self, work: Callable[[], Result]) -> Result:
        """The result of a function that launches, called where launches can be made."""
        return work()

    @abstractmethod
    def _write(self, tensor: int, value: Array) -> None:
        """Set an input, or the front of one."""

    @abstractmethod
    def _launch(self, index: int) -> None:
        """Begin a launch."""

    @abstractmethod
    def wait(self) -> None:
        """Until everything that was begun is done."""

    @abstractmethod
    def _read(self, tensors: Mapping[str, int]) -> dict[str, Array]:
        """Copies of tensors, when everything that was begun is done."""

    def _check(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The feeds as contiguous arrays of the right type."""
        checked = {}
        for name, shape in self.inputs.items():
            if name not in feeds:
                raise InputError(f"the input {name} is missing")
            value = feeds[name]
            if value.shape != shape:
                raise InputError(
                    f"the input {name} is {list(value.shape)}, but {self.bundle.path} was compiled "
                    f"for {list(shape)}",
                    hint="compile for the size you need: graphopt compile --input-shape",
                )
            dtype = self._plan.tensors[self._plan.inputs[name]].dtype
            checked[name] = np.ascontiguousarray(as_type(value, np.dtype(dtype)))
        return checked

    def _layer_times(self, runs: int) -> list[LayerTime]:
        network, tensors = self._stages["network"], self._plan.tensors
        launches = [self._plan.launches[i] for i in network]
        # Launches without a layer belong to the one before.
        first = [i for i, step in enumerate(launches) if step.layer]
        seconds = np.zeros((runs, len(launches)))
        for run in range(runs):
            for i, launch in enumerate(network):
                start = time.perf_counter()
                self._launch(launch)
                self.wait()
                seconds[run, i] = time.perf_counter() - start
        ms = 1e3 * np.median(np.add.reduceat(seconds, first, axis=1), axis=0)
        return [
            LayerTime(
                launches[i].layer,
                launches[i].kernel,
                float(ms[n]),
                launches[i].macs,
                sum(_size(tensors[t]) for step in launches[i:end] for t in set(step.arguments)),
            )
            for n, (i, end) in enumerate(zip(first, [*first[1:], len(launches)], strict=True))
        ]


def _aligned(size: int) -> NDArray[np.uint8]:
    """Uninitialised bytes that start at a multiple of `ALIGNMENT`."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def _size(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize


def _as_array(memory: NDArray[np.uint8], tensor: Tensor) -> Array:
    flat = memory[tensor.offset : tensor.offset + _size(tensor)]
    return flat.view(tensor.dtype).reshape(tensor.shape)


def device_name(target: str, threads: int = 0) -> str:
    """What bundles for a target run on here: the processor, or the OpenCL device and its driver.

    Args:
        target: a file name of `graphopt/codegen/targets`.
        threads: see `open_bundle`; PoCL keeps the number that it is started with.

    Raises:
        Unsupported: this machine has no such device.
    """
    if target == "cpu":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(names, platform.machine())
    cl = _pyopencl()
    (device,) = _context(cl, threads).devices
    return f"{device.name.strip()}, driver {device.driver_version.strip()}"


def cpu_features() -> set[str]:
    """This CPU's features, as /proc/cpuinfo names them."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("flags", "Features")):  # on x86, on Arm
            return set(line.partition(":")[2].split())
    return set()


def this_host() -> str:
    """The machine that this is, as `--host` would call it."""
    return f"{platform.machine()}-linux-gnu"


class CpuRunner(BundleRunner):
    """Kernels of a shared library, called in order on views of the arenas; nothing is allocated."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle)
        self._require_cpu(bundle)
        self._threads = CpuThreads(threads)
        module = tvm_ffi().load_module(str(bundle.path / "kernels.so"))
        weights = _aligned(bundle.manifest.files["weights.bin"].bytes)
        with (bundle.path / "weights.bin").open("rb") as file:
            file.readinto(weights.data)  # straight into place: they are most of the memory
        arenas = [_aligned(size) for size in bundle.plan.arenas]
        memories = {-1: weights, **dict(enumerate(arenas))}
        self._arrays = [
            _as_array(
                memories[t.arena] if t.arena is not None else _aligned(_size(t)),
                t if t.arena is not None else t.model_copy(update={"offset": 0}),
            )
            for t in bundle.plan.tensors
        ]
        tensors = [tvm_ffi().from_dlpack(array) for array in self._arrays]
        self._calls = [
            (module[launch.kernel], [tensors[i] for i in launch.arguments])
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
        missing = [f for f in target.cpu_features if f not in have]
        if missing:
            raise Unsupported(
                f"{bundle.path} was compiled for a CPU with {', '.join(missing)}, "
                "which this one lacks",
                hint="compile it on this machine",
            )

    def _launching(self, work: Callable[[], Result]) -> Result:
        return self._threads.run(work)

    def _write(self, tensor: int, value: Array) -> None:
        self._arrays[tensor].reshape(-1)[: value.size] = value.reshape(-1)

    def _launch(self, index: int) -> None:
        kernel, arguments = self._calls[index]
        kernel(*arguments)

    def wait(self) -> None:
        pass  # a launch returns when it is done

    def _read(self, tensors: Mapping[str, int]) -> dict[str, Array]:
        return {name: self._arrays[i].copy() for name, i in tensors.items()}


class OpenClRunner(BundleRunner):
    """Kernels of OpenCL C on one buffer an arena; a tensor is a sub-buffer.

    The device is the first GPU, or else the first device; `PYOPENCL_CTX` (as pyopencl reads it)
    chooses another. Compiled programs are kept, so a second start is quick: by drivers that do so
    themselves (PoCL, NVIDIA), for others by pyopencl, in its folder of the user's cache
    (XDG_CACHE_HOME), by source, device, driver and options. `PYOPENCL_NO_CACHE=1` turns that off.
    """

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle)
        self._cl = cl = _pyopencl()
        # Kept here: some implementations (Intel's) let a context go that only its queue knows.
        self._context = context = _context(cl, threads)
        self._queue = cl.CommandQueue(context)
        device = self._queue.device
        missing = set(bundle.manifest.target.extensions) - set(device.extensions.split())
        if missing:
            raise Unsupported(
                f"the bundle needs {', '.join(sorted(missing))}, which {device.name.strip()} lacks",
                hint="compile it with --fp16 rather than --fp16-arithmetic",
            )
        try:
            program = _built(cl, context, bundle.read("kernels.cl").decode())
        except cl.Error as error:
            name = device.name.strip()
            raise Unsupported(f"{name} cannot compile the kernels: {error}") from error
        flags = cl.mem_flags
        # OpenCL has no empty buffers, and a network may have no weights.
        weights = np.frombuffer(bundle.read("weights.bin") or bytes(1), np.uint8)
        memories = {
            -1: cl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=weights),
            **{
                i: cl.Buffer(context, flags.READ_WRITE, max(size, 1))
                for i, size in enumerate(bundle.plan.arenas)
            },
        }
        self._memories = memories
        self._images: dict[int, Any] = {}
        self._buffers = [self._tensor(context, memories, t) for t in bundle.plan.tensors]
        try:
            self._calls = [self._kernel(program, launch) for launch in bundle.plan.launches]
        except OSError as error:
            raise InputError(
                f"pyopencl cannot write to the user's cache: {error}",
                hint="set XDG_CACHE_HOME to a folder that can be written",
            ) from error

    def _tensor(self, context: Any, memories: Mapping[int, Any], tensor: Tensor) -> Any:
        if tensor.arena is None:
            return self._cl.Buffer(context, self._cl.mem_flags.READ_WRITE, _size(tensor))
        return memories[tensor.arena].get_sub_region(tensor.offset, _size(tensor))

    def _kernel(self, program: Any, launch: Launch) -> tuple[Any, Launch]:
        # A kernel object of its own for every launch: its arguments are set once.
        kernel = self._cl.Kernel(program, launch.kernel)
        kernel.set_args(
            *(
                self._image(i) if n in launch.images else self._buffers[i]
                for n, i in enumerate(launch.arguments)
            )
        )
        return kernel, launch

    def _image(self, i: int) -> Any:
        """The memory of a tensor as an image; OpenCL makes none of sub-buffers."""
        if i in self._images:
            return self._images[i]
        cl, tensor = self._cl, self._plan.tensors[i]
        memory = self._buffers[i] if tensor.arena is None else self._memories[tensor.arena]
        half = tensor.dtype == "float16"
        pixels = memory.size // (8 if half else 16)
        device = self._queue.device
        if not device.image_support or pixels > device.image_max_buffer_size:
            raise Unsupported(
                f"{device.name.strip()} has no images of {pixels} pixels, which the bundle needs",
                hint="compile it with --target opencl",
            )
        kind = cl.channel_type.HALF_FLOAT if half else cl.channel_type.FLOAT
        pixel = cl.ImageFormat(cl.channel_order.RGBA, kind)
        # Kept here: a kernel does not keep its arguments alive.
        self._images[i] = cl.create_image(
            self._context, cl.mem_flags.READ_ONLY, pixel, shape=(pixels,), buffer=memory
        )
        return self._images[i]

    def _write(self, tensor: int, value: Array) -> None:
        self._cl.enqueue_copy(self._queue, self._buffers[tensor], value)

    def _launch(self, index: int) -> None:
        kernel, launch = self._calls[index]
        self._cl.enqueue_nd_range_kernel(self._queue, kernel, launch.grid, launch.group)

    def wait(self) -> None:
        self._queue.finish()

    def _read(self, tensors: Mapping[str, int]) -> dict[str, Array]:
        results = {}
        for name, i in tensors.items():
            tensor = self._plan.tensors[i]
            results[name] = np.empty(tensor.shape, tensor.dtype)
            self._cl.enqueue_copy(self._queue, results[name], self._buffers[i])
        return results


def _pyopencl() -> Any:
    try:
        import pyopencl
    except ImportError:
        raise Unsupported(
            "running an opencl bundle needs pyopencl", hint="pip install 'graphopt[opencl]'"
        ) from None
    return pyopencl


def _built(cl: Any, context: Any, source: str) -> Any:
    """A program, from the cache if it can be had there."""
    program = cl.Program(context, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged cache is no trouble of the user's
        try:
            return program.build()
        except cl.Error:
            raise
        except Exception:  # damaged past that, or not to be written: KeyError, OSError …
            return program.build(cache_dir=False)


def _context(cl: Any, threads: int) -> Any:
    """A context on the device to use; one that is the CPU works on so many threads, 0 for all."""
    with environment(dict.fromkeys(POCL_THREADS, str(threads)) if threads else {}):
        context = _any_context(cl)
    device = context.devices[0]
    if threads and device.type & cl.device_type.CPU and device.max_compute_units != threads:
        warnings.warn(
            f"{device.name.strip()} works on {device.max_compute_units} threads, not on {threads}: "
            "OpenCL on the CPU keeps the number that it was started with",
            RuntimeWarning,
            stacklevel=2,
        )
    return context


def _any_context(cl: Any) -> Any:
    if "PYOPENCL_CTX" in os.environ:
        return cl.create_some_context(interactive=False)
    try:
        devices = [device for platform in cl.get_platforms() for device in platform.get_devices()]
    except cl.Error:
        devices = []
    if not devices:
        raise Unsupported(
            "this machine has no OpenCL device",
            hint="pip install 'pyopencl[pocl]' brings one that runs on the CPU",
        )
    gpus = [device for device in devices if device.type & cl.device_type.GPU]
    return cl.Context([(gpus or devices)[0]])
