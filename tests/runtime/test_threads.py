"""A cpu bundle runs on as many threads as it was asked to, whoever calls it, and on no others."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import onnx
import pytest

from graphopt.codegen.jobs.roofline_kernels import make_bundle
from graphopt.codegen.targets import load_target
from graphopt.compiler.compile import compile_model
from graphopt.errors import InputError
from graphopt.runtime.open import open_bundle
from graphopt.runtime.threads import CpuThreads, usable_cores


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels that multiply and copy for a while, in parallel."""
    path = tmp_path_factory.mktemp("peak") / "bundle"
    make_bundle(load_target("cpu"), path)
    return path


def spent() -> dict[str, int]:
    """Nanoseconds that each thread of this process has been on a core."""
    times = {}
    for task in Path("/proc/self/task").iterdir():
        times[task.name] = int((task / "schedstat").read_text().split()[0])
    return times


def sleep() -> None:
    """Wait until no other thread looks for work any more."""
    while True:
        stats = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path("/proc/self/task").iterdir()
            if task.name != str(threading.get_native_id())
        ]
        if all(state == "S" for state in stats):
            return
        time.sleep(0.01)


def workers(run: Callable[[], object]) -> int:
    """How many threads share the work of what a thread asks for, that thread not counted."""
    run()
    sleep()
    before = spent()
    run()
    took = {task: now - before.get(task, 0) for task, now in spent().items()}
    del took[str(threading.get_native_id())]
    total = sum(took.values())
    return sum(share > 0.1 * total for share in took.values())


def elsewhere(work: Callable[[], int]) -> int:
    """The result of a function in a thread of its own."""
    results: SimpleQueue[int] = SimpleQueue()
    thread = threading.Thread(target=lambda: results.put(work()))
    thread.start()
    thread.join()
    return results.get(timeout=1)


def test_each_runner_has_its_own_number(bundle: Path) -> None:
    runners = {count: open_bundle(bundle, threads=count) for count in (2, 1, 4)}
    for count in (1, 4, 2, 1):
        assert workers(lambda: runners[count].run({})) == count  # noqa: B023


def test_another_thread_has_the_same_number(bundle: Path) -> None:
    runner = open_bundle(bundle, threads=3)
    assert workers(lambda: runner.run({})) == 3
    assert elsewhere(lambda: workers(lambda: runner.run({}))) == 3
    assert elsewhere(lambda: workers(lambda: open_bundle(bundle, threads=2).run({}))) == 2


def test_layers_are_timed_on_as_many(bundle: Path) -> None:
    assert workers(lambda: open_bundle(bundle, threads=3).profile({}, 1)) == 3


def test_without_a_number_every_core(bundle: Path) -> None:
    assert workers(lambda: open_bundle(bundle).run({})) == usable_cores()
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("variable", ["TVM_NUM_THREADS", "OMP_NUM_THREADS"])
def test_the_environment_has_no_say(
    bundle: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    assert workers(lambda: open_bundle(bundle, threads=2).run({})) == 2
    monkeypatch.setenv(variable, "5")
    assert workers(lambda: open_bundle(bundle, threads=3).run({})) == 3


def test_the_environment_stays(bundle: Path) -> None:
    before, words = dict(os.environ), Path("/proc/self/environ").read_bytes()
    CpuThreads(7).run(lambda: None)  # a number that no other test has started
    open_bundle(bundle, threads=2).run({})
    assert dict(os.environ) == before
    assert Path("/proc/self/environ").read_bytes() == words


def test_threads_are_used_again(bundle: Path) -> None:
    def threads() -> int:
        open_bundle(bundle, threads=2).run({})
        return len(spent())

    first = threads()
    assert [threads() for _ in range(5)] == [first] * 5


def test_a_forked_process_has_threads_too(bundle: Path) -> None:
    # In a process of its own: one that has as many threads as this should not be forked.
    program = (
        "import os, sys, pathlib, graphopt.runtime.open as r\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_threads import workers\n"
        "runner = r.open_bundle(pathlib.Path(sys.argv[1]), threads=2)\n"
        "assert workers(lambda: runner.run({})) == 2\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(workers(lambda: runner.run({})))\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2\n"
        "assert workers(lambda: runner.run({})) == 2\n"
    )
    command = [sys.executable, "-c", program, str(bundle), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_what_goes_wrong_there_comes_back_here() -> None:
    def fail() -> None:
        raise InputError("the kernel failed")

    threads = CpuThreads(2)
    with pytest.raises(InputError, match="the kernel failed"):
        threads.run(fail)
    assert threads.run(lambda: 5) == 5


def control() -> int:
    """The calling thread's bits for denormal numbers."""
    size, at, bits = {"x86_64": (32, 28, 0x8040), "aarch64": (8, 0, 1 << 24)}[platform.machine()]
    state = ctypes.create_string_buffer(size)
    ctypes.CDLL("libm.so.6").fegetenv(state)
    return ctypes.c_uint32.from_buffer(state, at).value & bits


def test_kernels_make_no_denormals(proto: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    net = proto(
        "float[1,16,32,32] x",
        "float[1,16,32,32] y, float[1,16,32,32] gate",
        "y = Conv(x, tiny) big = Conv(x, large) gate = Sigmoid(big)",
        tiny=np.full((16, 16, 1, 1), 1e-20, np.float32),
        large=np.full((16, 16, 1, 1), -1e22, np.float32),
    )
    onnx.save(net, tmp_path / "net.onnx")
    compile_model(tmp_path / "net.onnx", tmp_path / "bundle")
    x = np.full((1, 16, 32, 32), 1e-20, np.float32)
    for threads in (1, 3):
        found = open_bundle(tmp_path / "bundle", threads=threads).run({"x": x})
        assert not found["y"].any()  # 1.6e-39 in NumPy, on every worker's part
        least = np.finfo(np.float32).tiny
        assert least < found["gate"].min()  # 0 in NumPy
        assert found["gate"].max() < 1e-30


def test_only_its_threads_take_denormals_as_zero(bundle: Path) -> None:
    before = control()
    runner = open_bundle(bundle, threads=2)
    runner.run({})
    assert control() == before == 0
    assert CpuThreads(2).run(control) != 0
