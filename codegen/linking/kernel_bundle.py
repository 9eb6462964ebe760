"""Kernels without a network, as a bundle, to be measured and tested by the runners of bundles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm

from graphopt.codegen.linking import machine_code
from graphopt.codegen.targets import Target
from graphopt.ir.version import VERSION
from graphopt.runtime import bundle
from graphopt.runtime.plan import FORMAT, Manifest, Model, Plan


def write_kernels(
    functions: Mapping[str, Any], plan: Plan, weights: bytes, target: Target, path: Path
) -> None:
    """Compile kernels and write them as a bundle.

    Args:
        functions: TIR by name.
        plan: launches them by those names.
        weights: the content of weights.bin.
        target: what to compile for.
        path: the bundle's folder.
    """
    plan, file, code = machine_code.compiled(functions, plan, target)
    manifest = Manifest(
        format=FORMAT,
        graphopt=VERSION,
        tvm=tvm.__version__,
        target=machine_code.description(target),
        model=Model(path="", sha256=""),
        inputs={name: plan.tensors[i].shape for name, i in plan.inputs.items()},
        outputs={name: plan.tensors[i].shape for name, i in plan.outputs.items()},
        macs=sum(launch.macs for launch in plan.launches),
        runs={},
        files={},
    )
    files = {"plan.json": plan.to_json().encode(), "weights.bin": weights, file: code}
    bundle.write_bundle(path, manifest, files)
