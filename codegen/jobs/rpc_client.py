"""A library on a device that runs TVM's RPC server: uploaded, run and timed there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from pydantic import ValidationError
from tvm import relax, rpc

from graphopt.codegen.jobs.compile_network import Progress
from graphopt.codegen.jobs.records import RpcTiming
from graphopt.codegen.jobs.tvm_library import DEVICES, MANIFEST
from graphopt.errors import InputError, Unsupported
from graphopt.ir.arrays import Array
from graphopt.ir.files import is_unchanged
from graphopt.ir.onnx_io import load_model, serialised
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.plan import Manifest
from graphopt.runtime.sample_inputs import sample_feeds


def measure(
    library: Path,
    host: str,
    port: int,
    rounds: int,
    warmup_rounds: int,
    progress: Progress,
) -> RpcTiming:
    """Time a library where a server listens, and compare its outputs with onnxruntime's here.

    A round is a run that is not counted and one that is.

    Args:
        library: from `standard.write_library`.
        host, port: of the server.
        rounds: how many.
        warmup_rounds: rounds before those, which are not counted.
        progress: told each phase as it begins.

    Raises:
        InputError: no server listens there, or it cannot load the library.
        Unsupported: the library's device is missing there.
    """
    progress("connect")
    try:
        remote = rpc.connect(host, port)
    except Exception as error:  # TVM raises all kinds
        raise InputError(
            f"no RPC server of TVM answers at {host}:{port}",
            hint=f"start one on the device: python -m tvm.exec.rpc_server --port {port}",
        ) from error
    progress("upload")
    remote.upload(str(library))
    progress("load")
    loaded, manifest = _loaded(remote, library)
    kind = DEVICES[manifest.target.kind]
    device = remote.device(kind)
    if not device.exist:
        raise Unsupported(f"the server at {host}:{port} finds no device for {kind}")
    machine = relax.VirtualMachine(loaded, device)
    progress("onnxruntime")
    feeds, expected = _example(manifest)
    progress("run")
    values = (feeds[name] for name in manifest.inputs)
    machine.set_input("main", *(tvm.runtime.tensor(value, device) for value in values))
    machine.invoke_stateful("main")
    results = machine.get_outputs("main")
    worst = None
    if not isinstance(expected, str):
        worst = max(
            difference(result.numpy(), expected[name])
            for name, result in zip(manifest.outputs, results, strict=True)
        )
    once = machine.time_evaluator("invoke_stateful", device, number=1)
    seconds = []
    for number in range(warmup_rounds + rounds):
        progress("round", f"{number + 1} of {warmup_rounds + rounds}")
        seconds += once("main").results
    return RpcTiming(
        manifest=manifest,
        ms=tuple(1e3 * s for s in seconds[warmup_rounds:]),
        difference=worst,
        not_compared=expected if isinstance(expected, str) else "",
    )


def _loaded(remote: Any, library: Path) -> tuple[Any, Manifest]:
    """The library on the device, and what it says it is."""
    try:
        loaded = remote.load_module(library.name)
        # Its device is not known yet, and the manifest needs none.
        text = relax.VirtualMachine(loaded, remote.cpu())[MANIFEST]()
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise InputError(
            f"the server cannot load {library.name}: {lines[-1]}",
            hint="was it compiled with --format tvm, for that device?",
        ) from error
    try:
        return loaded, Manifest.from_json(text)
    except ValidationError as error:
        raise InputError(
            f"{library} was written by another version of graphopt", hint="compile it again"
        ) from error


def _example(manifest: Manifest) -> tuple[Mapping[str, Array], Mapping[str, Array] | str]:
    """An input, and the outputs that are right, or why they are not known."""
    path = Path(manifest.model.path)
    if is_unchanged(path, manifest.model.sha256):
        graph = load_model(path, manifest.inputs)
        feeds = sample_feeds(graph, manifest.inputs)[0]
        with serialised(graph) as model:
            return feeds, OnnxRuntimeEngine(model).run(feeds)
    rng = np.random.default_rng(0)
    made_up = {name: rng.random(shape, np.float32) for name, shape in manifest.inputs.items()}
    return made_up, f"{path} is gone or has changed"
