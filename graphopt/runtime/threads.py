"""Threads that run CPU kernels: so many to a runner, with denormal numbers taken as zero.

TVM keeps a pool of workers for every thread that launches kernels, and sizes it once. So a runner
launches from a thread of its own: whichever thread of the program calls it, the same workers do the
work, and neither the caller's floating-point mode nor, for longer than a pool takes to start, the
environment is touched.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import platform
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from graphopt.errors import Unsupported

Result = TypeVar("Result")

_environment = threading.Lock()
_idle: dict[tuple[int, int], list[ThreadPoolExecutor]] = defaultdict(list)
"""By process and number of threads: those that nobody uses, because TVM never ends a pool."""

_SHARED_CORES = -3
"""The affinity mode of TVM's that counts threads by a list of cores, and shares those."""

_NOTHING = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(
    lambda *_: 0
)
"""A parallel job of TVM's that does nothing."""

_DENORMALS_ARE_ZERO = {"x86_64": (32, 28, 0x8040), "aarch64": (8, 0, 1 << 24)}
"""Machine -> bytes of Linux's fenv_t, where in it the control register is, and the bits to set:
MXCSR's flush-to-zero and denormals-are-zero, FPCR's FZ."""


def usable_cores() -> int:
    """The cores that this process may use, hardware threads of one core counted once."""
    usable = os.sched_getaffinity(0)
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return len({Path(topology.format(cpu)).read_text() for cpu in usable})
    except OSError:  # containers may hide it
        return len(usable)


class CpuThreads:
    """Threads that run kernels for one runner, whichever thread of the program asks for it.

    A process that was forked off has others than the one that it came from.

    Args:
        count: how many; 0 takes every core that the process may use.

    Raises:
        Unsupported: TVM's runtime is not installed.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count or usable_cores()
        tvm_ffi()
        self._take()

    def _take(self) -> None:
        self._process = os.getpid()
        idle = _idle[self._process, self.count]
        try:
            self._launcher = idle.pop()
        except IndexError:
            self._launcher = ThreadPoolExecutor(1, f"graphopt-{self.count}")
            self._launcher.submit(_start_workers, self.count).result()
        weakref.finalize(self, idle.append, self._launcher).atexit = False

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of a function whose kernels run on these threads."""
        if self._process != os.getpid():
            self._take()
        done = self._launcher.submit(work)
        try:
            return done.result()
        except BaseException:  # Ctrl-C, too, leaves no kernel running
            wait([done])
            raise


def _start_workers(count: int) -> None:
    """Make the calling thread one that launches kernels, with `count` - 1 workers beside it."""
    _take_denormals_as_zero()  # and so do workers, which inherit it
    variables = {
        # Idle workers should sleep soon, for other programs, but not between two kernels: a woken
        # one may find itself on the core of the thread that woke it. This is about a millisecond.
        "TVM_THREAD_POOL_SPIN_COUNT": os.environ.get("TVM_THREAD_POOL_SPIN_COUNT", "20000"),
        # Bound, this thread would stay on the first core, whoever else is there.
        "TVM_BIND_THREADS": os.environ.get("TVM_BIND_THREADS", "0"),
    }
    cores = itertools.cycle(sorted(os.sched_getaffinity(0)))
    # Given as a number, TVM would cut it to half of the machine's hardware threads, here and again
    # at every launch.
    places = [str(core) for core in itertools.islice(cores, count)]
    with environment(variables):
        tvm_ffi().get_global_func("runtime.config_threadpool")(_SHARED_CORES, count, places)
        # Workers look at the environment when they first run: let them, while it says this.
        _runtime().TVMBackendParallelLaunch(_NOTHING, None, count)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a library that reads them while it starts; put back afterwards."""
    with _environment:
        before = {name: os.environ.get(name) for name in variables}
        os.environ |= variables
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _take_denormals_as_zero() -> None:
    """Set the calling thread, and those that it starts from now on, to do so.

    On many CPUs arithmetic on numbers below 1e-38 takes a hundred times as long, and sigmoids
    are full of them.
    """
    layout = _DENORMALS_ARE_ZERO.get(platform.machine())
    if not sys.platform.startswith("linux") or layout is None:
        return
    library = ctypes.CDLL("libm.so.6")
    size, at, bits = layout
    state = ctypes.create_string_buffer(size)
    library.fegetenv(state)
    ctypes.c_uint32.from_buffer(state, at).value |= bits
    library.fesetenv(state)


@cache
def tvm_ffi() -> Any:
    """TVM's C runtime without its Python package, which takes a second to import.

    Raises:
        Unsupported: it is not installed.
    """
    with _without("torch"):
        import tvm_ffi

    _runtime()
    return tvm_ffi


@cache
def _runtime() -> ctypes.CDLL:
    """TVM's C runtime.

    Raises:
        Unsupported: it is not installed.
    """
    package = importlib.util.find_spec("tvm")
    if package is None or not package.submodule_search_locations:
        raise Unsupported("a cpu bundle needs TVM's runtime", hint="pip install apache-tvm")
    library = Path(package.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Imports of a module fail, unless it is there already.

    tvm_ffi imports PyTorch where it is installed: 180 MB and seconds for conversions that nobody
    here asks for.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # so Python marks absence
    try:
        yield
    finally:
        del sys.modules[module]
