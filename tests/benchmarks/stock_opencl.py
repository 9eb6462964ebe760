"""How much faster our OpenCL kernels are than TVM's own pipeline, on the same device and runner.

    python tests/benchmarks/stock_opencl.py MODEL.onnx [HEIGHT WIDTH]

Compiles the network twice, with our kernels and with TVM's default schedules for GPUs
(`tvm.relax.backend.gpu_generic`), and runs both through `graphopt.runtime`, in turns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import tvm
from tvm.relax.backend import gpu_generic

from graphopt.codegen.importing.importer import import_onnx
from graphopt.codegen.jobs import compile_network as stages
from graphopt.codegen.linking import machine_code
from graphopt.codegen.lowering.memory_plan import make_plan
from graphopt.codegen.targets import load_target
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.runtime.bundle import write_bundle
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine
from graphopt.runtime.open import open_bundle
from graphopt.runtime.plan import FORMAT, BundleTarget, Manifest, Model, Plan
from graphopt.runtime.sample_inputs import sample_feeds

ROUNDS = 5


def stock(model: onnx.ModelProto) -> stages.Compiled:
    """The network as TVM alone compiles it."""
    device = machine_code.tvm_target(load_target("opencl"))
    with device:
        module, _ = import_onnx(model)
        passes = [
            *gpu_generic.legalize_passes(device),
            *gpu_generic.dataflow_lower_passes(device),
            *gpu_generic.finalize_passes(device)[:2],
        ]
        module = tvm.transform.Sequential(passes)(module)
        names = [i.name for i in model.graph.input], [o.name for o in model.graph.output]
        plan, weights, functions = make_plan(module, [], *names)
        source, launches = machine_code.opencl_source(functions, device, lambda _: None)
    return stages.Compiled(
        machine_code.with_launches(plan, launches), weights, source, "kernels.cl"
    )


def as_engine(compiled: stages.Compiled, folder: Path) -> Engine:
    """Through a bundle, as everybody runs it."""

    def shapes(places: dict[str, int], plan: Plan) -> dict[str, tuple[int, ...]]:
        return {name: plan.tensors[i].shape for name, i in places.items()}

    manifest = Manifest(
        format=FORMAT,
        graphopt="",
        tvm=tvm.__version__,
        target=BundleTarget(name="opencl", kind="gpu", host="", description=""),
        model=Model(path="", sha256=""),
        inputs=shapes(compiled.plan.inputs, compiled.plan),
        outputs=shapes(compiled.plan.outputs, compiled.plan),
        macs=0,
        runs={},
        files={},
    )
    plan = compiled.plan.to_json().encode()
    files = {"plan.json": plan, "weights.bin": compiled.weights, "kernels.cl": compiled.code}
    write_bundle(folder, manifest, files)
    return open_bundle(folder)


def main(path: Path, height: int, width: int) -> None:
    """Print the ratio and what it is made of."""
    graph = load_model(path, {"": (1, 3, height, width)})
    graph = run_pipeline(graph, parse_pipeline(PRESETS["exact"]), verify="off").graph
    model = to_proto(graph)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    with tempfile.TemporaryDirectory() as folder:
        engines = {
            "TVM's schedules": as_engine(stock(model), Path(folder) / "stock"),
            "graphopt": as_engine(
                stages.compile_network(model, load_target("opencl")), Path(folder) / "ours"
            ),
        }
        shapes = {i.name: (1, 3, height, width) for i in graph.inputs}
        feeds = sample_feeds(graph, shapes)[0]
        expected = OnnxRuntimeEngine(model.SerializeToString()).run(feeds)
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for name, engine in engines.items():
            got = engine.run(feeds)
            worst = max(difference(got[key], value) for key, value in expected.items())
            print(f"{name}: {worst:.0e} from onnxruntime")
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                start = time.perf_counter()
                engine.run(feeds)
                seconds[name].append(time.perf_counter() - start)
    ratios = np.divide(*map(np.array, seconds.values()))
    medians = ", ".join(f"{name} {np.median(s) * 1e3:.0f} ms" for name, s in seconds.items())
    print(
        f"{medians}; graphopt is {np.median(ratios):.1f}x faster "
        f"({ratios.min():.1f} to {ratios.max():.1f} in {ROUNDS} rounds)"
    )


if __name__ == "__main__":
    size = [int(n) for n in sys.argv[2:4]] or [368, 656]
    main(Path(sys.argv[1]), *size)
