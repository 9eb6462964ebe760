"""Runs a bundle here: CPU kernels through TVM's runtime, OpenCL kernels through pyopencl.

Both walk the same static plan; the device runner for phones does it the same way.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import InputError
from graphopt.ir.arrays import Array, Shape
from graphopt.runtime.bundle import Bundle
from graphopt.runtime.engine import as_type
from graphopt.runtime.plan import Stage, Tensor
from graphopt.runtime.threads import Result


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
        self._stages: dict[Stage, list[int]] = {s: [] for s in get_args(Stage)}
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
            self._run("input")

    def prepare(self, photo: Mapping[str, Array]) -> None:
        """Set the network's input to a photo, which kernels scale and pad.

        Only a bundle that has a preparation can.

        Args:
            photo: what its tensors should hold, by the fields of `runtime.plan.Preparation`;
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
        tensors = self._plan.tensors
        network = self._stages["input"] + self._stages["network"]
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
                sum(byte_size(tensors[t]) for step in launches[i:end] for t in set(step.arguments)),
            )
            for n, (i, end) in enumerate(zip(first, [*first[1:], len(launches)], strict=True))
        ]


def byte_size(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize


def tensor_view(memory: NDArray[np.uint8], tensor: Tensor) -> Array:
    """A tensor's array in the memory of its arena."""
    flat = memory[tensor.offset : tensor.offset + byte_size(tensor)]
    return flat.view(tensor.dtype).reshape(tensor.shape)
