"""Other inference engines behind graphopt's engine contract, to be measured beside it.

All are held to the same conditions: the same number of threads, the CPU (or, to be measured beside
an opencl bundle, the OpenCL device), and either float32 arithmetic or, each of them, the best that
they have (`Job.best`). None of them is a dependency; one that is not installed is an `Unsupported`
error with the command that installs it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np

from graphopt.errors import GraphoptError, Unsupported, UsageError
from graphopt.ir.arrays import Array, Shape
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine

Shapes = Mapping[str, tuple[int, ...]]
"""Every input's extents, by name."""


@dataclass(frozen=True)
class Job:
    """What an engine is asked to run."""

    model: Path
    """An ONNX file."""
    inputs: Shapes
    outputs: Shapes
    threads: int
    scratch: Path
    """A folder for converted files; nobody needs it afterwards, but the engine may read it."""
    best: bool = False
    """Whether the engine computes in what it is fastest in; else in float32."""


class OpenVinoEngine:
    """Intel OpenVINO's CPU plug-in, one request at a time."""

    name = "openvino"

    def __init__(self, job: Job) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(job.model)
        model.reshape({name: list(shape) for name, shape in job.inputs.items()})
        settings: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": job.threads,
        }
        if not job.best:  # as it comes, it is bfloat16 on CPUs that have it
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = core.compile_model(model, "CPU", settings)
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(taken, taken)
        self._request = compiled.create_infer_request()
        self.inputs: Mapping[str, Shape] = dict(job.inputs)
        self.outputs: Sequence[str] = list(job.outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name."""
        results = self._request.infer(dict(feeds))
        return {name: np.array(results[name]) for name in self.outputs}


class NcnnEngine:
    """Tencent ncnn on the CPU, fed through pnnx, its converter.

    pnnx renames inputs and outputs (in0, out0 …) and may change their order: outputs are told apart
    by shape, and by their order where shapes are equal.
    """

    name = "ncnn"

    def __init__(self, job: Job) -> None:
        import ncnn

        param, weights = _to_ncnn(job)
        self._ncnn = ncnn
        self._net = ncnn.Net()
        self._net.opt.num_threads = job.threads
        self._net.opt.use_vulkan_compute = False
        # As it comes, it takes float16 on Arm CPUs that compute in it, and float32 on others. There
        # its bfloat16 storage, which is off, saves no time and moves outputs by a quarter.
        self.precision = "float16" if job.best and ncnn.cpu_support_arm_asimdhp() else "float32"
        if not job.best:
            for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
                setattr(self._net.opt, f"use_{option}", False)
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise Unsupported("ncnn cannot load what pnnx made")
        self.inputs: Mapping[str, Shape] = dict(job.inputs)
        self.outputs: Sequence[str] = list(job.outputs)
        self._blobs = dict(zip(job.inputs, self._net.input_names(), strict=True))
        self._shapes = job.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name."""
        extractor = self._net.create_extractor()
        for name, blob in self._blobs.items():
            # A clone: ncnn computes in place, and knows nothing of who else owns NumPy's memory.
            extractor.input(blob, self._ncnn.Mat(np.ascontiguousarray(feeds[name][0])).clone())
        values = [np.array(extractor.extract(name)[1])[None] for name in self._net.output_names()]
        outputs = {}
        for name, shape in self._shapes.items():
            match = next((i for i, value in enumerate(values) if value.shape == shape), None)
            if match is None:
                raise Unsupported(f"ncnn gives no output of {name}'s shape {list(shape)}")
            outputs[name] = values.pop(match)
        return outputs


def _to_ncnn(job: Job) -> tuple[Path, Path]:
    package = importlib.util.find_spec("pnnx")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("pnnx")
    # pnnx is a binary in a Python package whose import needs PyTorch; the binary does not. It
    # writes its by-products beside its input.
    binary = Path(package.submodule_search_locations[0]) / "pnnx"
    shutil.copy(job.model, job.scratch / "model.onnx")
    shapes = ",".join(f"[{','.join(map(str, shape))}]" for shape in job.inputs.values())
    command = [str(binary), "model.onnx", f"inputshape={shapes}", "fp16=0"]
    files = ("ncnn.param", "ncnn.bin")
    done = subprocess.run(
        [*command, f"ncnnparam={files[0]}", f"ncnnbin={files[1]}"],
        cwd=job.scratch,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    param, weights = (job.scratch / file for file in files)
    if done.returncode or not param.is_file() or not weights.is_file():
        complaint = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Unsupported(f"pnnx cannot convert the network: {complaint}")
    return param, weights


class GuestEngine:
    """An engine in a process of its own, run by `guest.py`, maybe by another environment's Python.

    Args:
        name: one of `graphopt.bench.subprocess_engine.ENGINES`.
        job: `model` is the file that the engine loads.
        python: who runs it.

    Raises:
        ImportError: that Python lacks the engine.
        Unsupported: the process ended; the message is its last words.
    """

    overhead = 0.0
    """Seconds of the last run that went into asking, being answered and copying on this side: no
    part of the engine's time."""
    precision = "float32"

    def __init__(self, name: str, job: Job, python: str) -> None:
        self.name = name
        self.inputs: Mapping[str, Shape] = dict(job.inputs)
        self.outputs: Sequence[str] = list(job.outputs)
        self._arrays: dict[str, Array] = {}
        places = {}
        for kind, shapes in (("input", job.inputs), ("output", job.outputs)):
            # Names of tensors may be no names of files.
            places[kind] = {t: str(job.scratch / f"{kind}{i}.npy") for i, t in enumerate(shapes)}
            for tensor, place in places[kind].items():
                self._arrays[tensor] = np.lib.format.open_memmap(
                    place, "w+", np.float32, shapes[tensor]
                )
        task = {
            "model": str(job.model),
            "inputs": places["input"],
            "outputs": places["output"],
            "threads": job.threads,
            "best": job.best,
        }
        (job.scratch / "guest.json").write_text(json.dumps(task))
        script = str(Path(__file__).with_name("subprocess_engine.py"))
        self._log = job.scratch / "guest.log"
        with self._log.open("w") as log:
            # -I: neither this folder's modules nor this Python's variables are that one's business.
            # Answers have a pipe of their own: engines print what they like.
            reading, writing = os.pipe()
            self._answers = os.fdopen(reading, encoding="utf-8")
            try:
                self._process = subprocess.Popen(
                    [python, "-I", script, name, str(job.scratch / "guest.json"), str(writing)],
                    pass_fds=[writing],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    text=True,
                )
            finally:
                os.close(writing)
        self.pid = self._process.pid
        weakref.finalize(self, _end, self._process, self._answers)
        self._answer()

    def _answer(self) -> str:
        if line := self._answers.readline():
            return line
        code = self._process.wait()
        words = self._log.read_text(errors="replace").strip().splitlines()
        last = words[-1] if code > 0 and words else f"it ended with code {code}"
        if last.startswith(("ImportError", "ModuleNotFoundError")):
            raise ImportError(last)
        raise Unsupported(f"{self.name} failed: {last}")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name."""
        start = time.perf_counter()
        for name in self.inputs:
            self._arrays[name][...] = feeds[name]
        assert self._process.stdin
        with suppress(BrokenPipeError):  # `_answer` says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        seconds = float(self._answer())
        outputs = {name: np.array(self._arrays[name]) for name in self.outputs}
        self.overhead = time.perf_counter() - start - seconds
        return outputs


def _end(process: subprocess.Popen[str], answers: IO[str]) -> None:
    process.kill()  # it holds nothing that must be saved
    process.communicate()
    answers.close()


MNN_PYTHON = "GRAPHOPT_MNN"
"""The variable that names the Python of an environment with MNN in it."""


def _open_mnn(job: Job) -> Engine:
    python = shutil.which(os.environ.get(MNN_PYTHON, ""))
    if python is None:
        raise ImportError(f"{MNN_PYTHON} does not name a Python")
    # Its command mnnconvert installs packages by itself and reports what was converted. The
    # function that it calls does neither.
    model = job.scratch / "model.mnn"
    program = "import _tools, sys; _tools.mnnconvert(sys.argv)"
    options = ["-f", "ONNX", "--modelFile", str(job.model), "--MNNModel", str(model)]
    done = subprocess.run(
        [python, "-I", "-c", program, *options, "--bizCode", "graphopt"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if not model.is_file():
        complaint = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        if complaint.startswith("ModuleNotFoundError"):
            raise ImportError(complaint)
        raise Unsupported(f"MNN cannot convert the network: {complaint}")
    engine = GuestEngine("mnn", replace(job, model=model), python)
    engine.precision = "low" if job.best else "float32"
    return engine


@dataclass(frozen=True)
class Competitor:
    """An engine that somebody may have installed."""

    open: Callable[[Job], Engine]
    install: str
    """The command that installs it."""
    reads_quantised: bool = False
    """Whether it runs ONNX files with QuantizeLinear and DequantizeLinear in whole numbers."""
    left_out: str = ""
    """What of its low precision is not measured, in a sentence."""


COMPETITORS: Mapping[str, Competitor] = MappingProxyType(
    {
        "onnxruntime": Competitor(
            lambda job: OnnxRuntimeEngine(job.model, threads=job.threads),
            "pip install onnxruntime",
            reads_quantised=True,
        ),
        "openvino": Competitor(OpenVinoEngine, "pip install openvino", reads_quantised=True),
        # pnnx asks for PyTorch, which its converter of ONNX files never loads.
        "ncnn": Competitor(
            NcnnEngine,
            "pip install ncnn && pip install --no-deps pnnx",
            left_out="ncnn's int8 is left out: its Python package lacks the tools that make it.",
        ),
        # Never into graphopt's environment: MNN's tools install and downgrade packages.
        "mnn": Competitor(
            _open_mnn,
            "python3 -m venv mnn && mnn/bin/pip install MNN numpy && "
            f"export {MNN_PYTHON}=$PWD/mnn/bin/python",
            left_out="MNN's int8 is left out: on x86, a network that its tool (mnnquant, 3.6) made "
            "took as long as float32. low is its low-precision mode, which takes what the CPU has.",
        ),
        "tinygrad": Competitor(
            lambda job: GuestEngine("tinygrad", job, sys.executable),
            "pip install tinygrad 'pyopencl[pocl]'",
            left_out="tinygrad runs in float32, as the network is written.",
        ),
    }
)
"""By the name that `--vs` takes."""


def check_names(names: Sequence[str]) -> None:
    """Refuse engines that nobody here knows.

    Raises:
        InputError: names the first one, and those that there are.
    """
    for name in names:
        if name not in COMPETITORS:
            raise UsageError(
                f"--vs: no engine is called {name!r}", hint=f"there are {', '.join(COMPETITORS)}"
            )


def open_competitor(name: str, job: Job) -> Engine:
    """Load a network into an engine.

    Raises:
        Unsupported: the engine is not installed (the hint is the pip command), or cannot load it.
    """
    competitor = COMPETITORS[name]
    try:
        return competitor.open(job)
    except ImportError as error:
        raise Unsupported(f"{name} is not installed ({error})", hint=competitor.install) from error
    except GraphoptError:
        raise
    except Exception as error:  # each engine has exceptions of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unsupported(f"{name} cannot load the network: {reason}") from error
