"""Any OpenCL 1.2 device: float4 vectors (NC4HW4), no local memory, no images."""

from __future__ import annotations

from graphopt.codegen.targets import Target


def make() -> Target:
    """Describe the generic OpenCL device."""
    return Target(
        name="opencl",
        kind="gpu",
        lanes=4,
        registers=12,
        filter_blocks=2,
        cache_bytes=0,
        work_group=64,
        dot="opencl",
        byte_lanes=16,
        tvm={"kind": "opencl", "max_num_threads": 256},
    )
