"""How well a device's profile predicts the layers of a network that it was not fitted to.

    python tests/benchmarks/latency_model.py pose.onnx --device epyc-znver4-2t --target cpu

Compiles the network, times each launch on this machine as `graphopt profile` does, and prints the
rank correlation (Spearman) of predicted to measured times, over the convolutions and over all
launches that a node of the network could be found for. A profile must be this machine's own, with
the same target and number of threads: see `graphopt profile`. Quantised networks go with
`--precision int8`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.stats import spearmanr

from graphopt.analysis.latency.device import Device, load_device
from graphopt.analysis.latency.predict import time_of
from graphopt.analysis.latency.work import Work, work_of
from graphopt.bench.device_profile import matched
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.ir.convolution import CONV_OPS
from graphopt.ir.graph import label
from graphopt.ir.input_shapes import format_input_shapes, parse_input_shapes
from graphopt.ir.onnx_io import load_model
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.layer_times import layer_times
from graphopt.runtime.threads import usable_cores


def main() -> None:
    """Compile, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("--device", required=True, help="a profile's name or TOML file")
    parser.add_argument("--target", default="cpu", help="cpu or opencl")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--input-shape", action="append", default=[], help="NAME:1,3,368,656")
    parser.add_argument("--layers", action="store_true", help="print every layer")
    precisions = ("float32", "bfloat16", "float16", "int8")
    parser.add_argument("--precision", choices=precisions, default="float32")
    options = parser.parse_args()
    device = load_device(options.device)
    if options.precision != "int8":
        device = device.computing_in(options.precision) or parser.error(
            f"{device.name} says nothing of {options.precision}"
        )
    shapes = parse_input_shapes(options.input_shape)
    with TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        compile_model(
            options.model,
            bundle,
            CompileOptions(
                target=options.target,
                input_shape=format_input_shapes(shapes),
                precision=options.precision,
            ),
        )
        times = layer_times(bundle, threads=options.threads)
        sizes = dict(read_bundle(bundle).manifest.inputs)
    graph = load_model(options.model, sizes)
    graph = run_pipeline(graph, parse_pipeline(PRESETS["exact"]), verify="off").graph
    pairs = matched(work_of(graph, device), times)
    if options.layers:
        for work, ms in pairs:
            told, bound = time_of(work, device)
            print(f"{ms:9.3f} ms, predicted {told:9.3f} ({work.kind.value}, {bound})", end=" ")
            print(label(work.node))
    convolutions = [pair for pair in pairs if pair[0].node.op in CONV_OPS]
    print(f"{options.model.name}, {options.target}, {options.threads} threads, {device.name}")
    for name, group in (("convolutions", convolutions), ("all layers", pairs)):
        print(f"  {name}: {_agreement(group, device)}")
    everything = sum(t.ms for t in times)
    share = sum(ms for _, ms in pairs) / everything
    print(f"  measured {everything:.1f} ms, {share:.1%} of them in these layers", end="; ")
    print(f"predicted {sum(time_of(w, device)[0] for w, _ in pairs):.1f} ms")


def _agreement(pairs: Sequence[tuple[Work, float]], device: Device) -> str:
    measured = np.array([ms for _, ms in pairs])
    predicted = np.array([time_of(work, device)[0] for work, _ in pairs])
    rank = spearmanr(measured, predicted).statistic
    error = np.median(np.abs(predicted / measured - 1))
    return f"rank correlation {rank:.3f} over {len(pairs)}, median error {error:.0%}"


if __name__ == "__main__":
    main()
