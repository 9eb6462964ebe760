"""What a bundle's network computes in."""

from __future__ import annotations

from graphopt.runtime.bundle import Bundle


def bundle_precision(bundle: Bundle) -> str:
    """What a bundle's network computes in, by the types of its tensors: `int8`, `float16 weights`.

    A type that only constants have is one of weights.
    """
    if bundle.manifest.precision:
        return bundle.manifest.precision
    inside = {index for x in bundle.plan.launches if x.stage == "network" for index in x.arguments}
    tensors = [bundle.plan.tensors[index] for index in sorted(inside)]
    told = []
    for name, kinds in _LOW.items():
        places = {tensor.arena for tensor in tensors if tensor.dtype in kinds}
        if places:
            told.append(f"{name} weights" if places == {-1} else name)
    return ", ".join(told) or "float32"


_LOW = {"int8": ("int8", "uint8"), "bfloat16": ("bfloat16",), "float16": ("float16",)}
"""Types of tensors, by what is said of a network that has them."""
