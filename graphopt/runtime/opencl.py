"""OpenCL kernels, run through pyopencl."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import InputError, Unsupported
from graphopt.ir.arrays import Array
from graphopt.runtime.bundle import Bundle
from graphopt.runtime.plan import Launch, Tensor
from graphopt.runtime.runner import BundleRunner, byte_size
from graphopt.runtime.threads import environment

POCL_THREADS = ("POCL_MAX_PTHREAD_COUNT", "POCL_CPU_MAX_CU_COUNT")
"""Where PoCL (OpenCL on the CPU) reads its number of threads, once a process."""

KHRONOS_DOT = "cl_khr_integer_dot_product"
PRODUCTS_OF_BYTES = frozenset(
    [KHRONOS_DOT, "cl_arm_integer_dot_product_accumulate_int8", "cl_qcom_dot_product8"]
)
"""Extensions whose functions kernels may call (`codegen.linking.opencl_dot`)."""


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
            return self._cl.Buffer(context, self._cl.mem_flags.READ_WRITE, byte_size(tensor))
        return memories[tensor.arena].get_sub_region(tensor.offset, byte_size(tensor))

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


def build_options(source: str, extensions: str) -> list[list[str]]:
    """What a program may be built with, best first.

    Args:
        source: its text.
        extensions: of the device, as it lists them.
    """
    if "PLAIN_DOT" not in source:
        return [[]]
    # Some compilers define macros of extensions that the device lacks, some devices list one that
    # their compiler lacks. Khronos's is there from OpenCL C 2.0 on.
    found = PRODUCTS_OF_BYTES & set(extensions.split())
    as_it_is: list[list[str]] = [[]] if found else []
    later = [["-cl-std=CL3.0"]] if KHRONOS_DOT in found else []
    return [*later, *as_it_is, ["-DPLAIN_DOT"]]


def _built(cl: Any, context: Any, source: str) -> Any:
    """A program, built with the first options that can be, from the cache if it is there."""
    (device,) = context.devices
    *better, last = build_options(source, device.extensions)
    for options in better:
        with suppress(cl.Error):
            return _built_with(cl, context, source, options)
    return _built_with(cl, context, source, last)


def _built_with(cl: Any, context: Any, source: str, options: list[str]) -> Any:
    program = cl.Program(context, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged cache is no trouble of the user's
        try:
            return program.build(options)
        except cl.Error:
            raise
        except Exception:  # damaged past that, or not to be written: KeyError, OSError …
            return program.build(options, cache_dir=False)


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
