"""Arm's Mali: buffers, no local memory, at most 64 registers a thread.

Local memory lies in the same memory and caches as buffers there, so it saves nothing. A thread has
up to 64 registers of 32 bits, of which the twelve float4 of a register tile take 48 (Arm, "Mali
Bifrost and Valhall OpenCL Developer Guide", 101574, sections 3.8 and 8). That is what kernels for
any device do; `graphopt tune` and a profile of the device find what is left.
"""

from __future__ import annotations

from dataclasses import replace

from graphopt.codegen.targets import Target, opencl


def make() -> Target:
    """Describe a Mali GPU."""
    return replace(opencl.make(), name="mali")
