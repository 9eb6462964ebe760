"""Qualcomm's Adreno: its kernels' input goes through the texture cache.

Buffers are cached in L2 alone there, images in each processor's L1 too (Qualcomm, "Snapdragon
Mobile Platform OpenCL General Programming and Optimization", 80-NB295-11, section 6.2).
"""

from __future__ import annotations

from dataclasses import replace

from graphopt.codegen.targets import Target, opencl


def make() -> Target:
    """Describe an Adreno GPU."""
    return replace(opencl.make(), name="adreno", images=True)
