"""Which pixels a network expects, read off its first layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphopt.pose.probe import Probe, zero_input
from graphopt.pose.spec import (
    Finding,
)

_CONVENTIONS: Mapping[str, dict[str, Any]] = {
    "pixels": {"color": "bgr", "mean": (0.0,) * 3, "scale": (1.0,) * 3, "pad_value": 0.0},
    "unit": {"color": "rgb", "mean": (0.0,) * 3, "scale": (1 / 255,) * 3, "pad_value": 0.0},
    "symmetric": {
        "color": "rgb",
        "mean": (127.5,) * 3,
        "scale": (1 / 127.5,) * 3,
        "pad_value": 127.5,
    },
    "paf": {"color": "bgr", "mean": (128.0,) * 3, "scale": (1 / 256,) * 3, "pad_value": 128.0},
    "single": {
        "color": "rgb",
        "mean": (123.675, 116.28, 103.53),
        "scale": (1 / 58.395, 1 / 57.12, 1 / 57.375),
        "pad_value": 114.0,
    },
}
"""8-bit pixels as they are, of 0..1, and of -1..1; OpenPose's and Lightweight OpenPose's;
ImageNet's.

The border is what becomes zero inside: what a network's own convolutions pad with.
"""


_RANGES = {"unit": (0.0, 1.0), "symmetric": (-1.0, 1.0)}
"""Ranges that tell a convention, of `_CONVENTIONS`, within a hundredth."""
_LARGEST_NORMALISED = 32.0
"""The range of normalised pixels is less, that of 8-bit ones more."""

_PIXEL_DEVIATION = 58.0
"""The deviation of photos' pixels (ImageNet's); normalised, it is about 1."""


def find_normalisation(
    proto: Any, probe: Probe, family: Literal["paf", "single"]
) -> tuple[dict[str, Any], dict[str, Finding]]:
    """Colour, mean, scale and pad value, read from the graph's head or guessed, and how."""
    inside = _affine_head(proto, probe.input)
    if probe.dtype.kind in "iu":
        # 8-bit pixels as they are; what the graph does with them only says what the border is.
        taken = Finding(how="detected", why=f"the input is {probe.dtype}")
        dark = zero_input(probe.dtype)
        factor, offset = inside if inside is not None else (np.ones(3), np.full(3, dark))
        zero = np.clip(-offset / factor + dark, 0, 255)
        found = {
            "color": "rgb" if zero[0] > zero[2] else "bgr",
            "mean": (dark,) * 3,
            "scale": (1.0,) * 3,
            "pad_value": float(np.rint(zero.mean())),
        }
        if zero[0] == zero[2]:
            found["color"] = _CONVENTIONS[family]["color"]
        notes = dict.fromkeys(found, taken)
        notes["color"] = _color_note(zero)
        return found, notes
    if inside is not None:
        factor, offset = inside
        top, why_guessed = _top(factor, offset)
        zero = np.clip(-offset / factor * 255 / top, 0, 255)
        detected = Finding(
            how="guessed" if why_guessed else "detected",
            why=why_guessed or f"the graph itself normalises pixels of 0..{top}",
        )
        found = {
            # Photos are on average redder than blue, so the larger mean belongs to red.
            "color": "rgb" if zero[0] > zero[2] else "bgr",
            "mean": (0.0,) * 3,
            "scale": (top / 255,) * 3,
            "pad_value": round(float(zero.mean()), 1),
        }
        notes = dict.fromkeys(found, detected)
        notes["color"] = _color_note(zero)
        return found, notes
    reach = _input_range(proto, probe.input)
    if reach is not None:
        # It was calibrated on what the network is fed.
        wide = reach[1] - reach[0] > _LARGEST_NORMALISED
        near = [name for name, ends in _RANGES.items() if _is_near(reach, ends)]
        usual = near[0] if near else "pixels" if wide else family
        why = f"the input is quantised from {reach[0]:.3g} to {reach[1]:.3g}"
        return dict(_CONVENTIONS[usual]), dict.fromkeys(
            _CONVENTIONS[usual], Finding(how="guessed", why=why)
        )
    # A trained first layer answers with a deviation of order one; which input gives that?
    normalised = probe.response / _PIXEL_DEVIATION
    fits = "pixels" if abs(np.log(probe.response)) < abs(np.log(normalised)) else family
    guessed = Finding(
        how="guessed",
        why=f"the first convolution answers 8-bit pixels with deviation {probe.response:.3g}, "
        f"normalised ones with {normalised:.2g}; about 1 is usual",
    )
    return dict(_CONVENTIONS[fits]), dict.fromkeys(_CONVENTIONS[fits], guessed)


def _color_note(zero: NDArray[np.float64]) -> Finding:
    if zero[0] == zero[2]:
        return Finding(how="guessed", why="the order of most pose networks")
    return Finding(how="detected", why="the graph itself subtracts most from red")


def _top(factor: NDArray[np.float64], offset: NDArray[np.float64]) -> tuple[int, str]:
    """The largest pixel value, 255 or 1, that an affine head is for; and why that is a guess.

    A head such as 4.4 x - 2.1 centres 0..1, and x / 255 - 0.5 centres 0..255. Of one that centres
    neither, only the extent of its results tells: x / 255 makes 1 of 255.
    """
    slope, shift = float(factor.mean()), float(offset.mean())
    off_centre = {top: abs(slope * top / 2 + shift) / abs(slope * top) for top in (255, 1)}
    centred = [top for top, error in off_centre.items() if error <= _OFF_CENTRE]
    usual = [top for top in off_centre if _SPANS[0] <= abs(slope) * top <= _SPANS[1]]
    best = min(off_centre, key=lambda top: (off_centre[top], -top))
    certain = centred or ([] if shift else usual)
    if len(certain) == 1:
        return certain[0], ""
    return best, (
        f"the graph computes {slope:.3g} x {'+' if shift >= 0 else '-'} {abs(shift):.3g}, "
        "which tells neither 0..255 nor 0..1"
    )


_OFF_CENTRE = 0.25
"""How far the middle of all pixels may be from zero after normalisation, as a part of their range:
a black-and-white mean of 64 to 191 of 255."""


_SPANS = (0.5, 8.0)
"""How far all pixels usually reach after normalisation by a factor alone: x / 255, 2 x …"""


def _affine_head(proto: Any, tensor: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(factor, offset), [3] each, of the affine map that the graph applies to its input, if any."""
    constants = _constants(proto)
    factor, offset = np.ones(3), np.zeros(3)
    found = rounded = False
    while True:
        users = [n for n in proto.graph.node if tensor in n.input]
        if len(users) != 1:
            break
        node = users[0]
        if node.op_type == "QuantizeLinear":
            rounded, tensor = True, node.output[0]
            continue
        if node.op_type == "DequantizeLinear":
            if not rounded:  # pixels come quantised
                a, b = _restoring(node, constants)
                factor, offset, found = factor * a, offset * a + b, True
            rounded, tensor = False, node.output[0]
            continue
        others = [constants.get(name) for name in node.input if name != tensor]
        step = _AFFINE.get(node.op_type)
        if step is None or any(o is None or o.size not in (1, 3) for o in others):
            break
        a, b = step(
            node,
            [np.broadcast_to(o.reshape(-1), 3).astype(float) for o in others if o is not None],
            node.input[0] == tensor,
        )
        factor, offset = factor * a, offset * a + b
        found = found or bool(others)
        tensor = node.output[0]
    return (factor, offset) if found else None


def _input_range(proto: Any, tensor: str) -> tuple[float, float] | None:
    """The least and the greatest value that an input is quantised to, where it is so at once."""
    constants = _constants(proto)
    users = [node for node in proto.graph.node if tensor in node.input]
    steps = [
        node
        for node in users
        if node.op_type == "QuantizeLinear" and {*node.input[1:]} <= {*constants}
    ]
    if not steps or len(steps) < len(users):
        return None
    scale, zero = constants[steps[0].input[1]], [constants[i] for i in steps[0].input[2:]]
    limits = np.iinfo(zero[0].dtype if zero else np.uint8)
    if scale.size > 1:
        return None
    start = float(zero[0].reshape(-1)[0]) if zero else 0.0
    low, high = (float(scale.reshape(-1)[0]) * (end - start) for end in (limits.min, limits.max))
    return low, high


def _is_near(reach: tuple[float, float], ends: tuple[float, float]) -> bool:
    return bool(np.allclose(reach, ends, atol=0.01))


def _restoring(node: Any, constants: Mapping[str, NDArray[Any]]) -> tuple[Any, Any]:
    """(factor, offset) of a DequantizeLinear."""
    scale = constants.get(node.input[1], np.ones(1)).astype(float)
    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    if scale.size > 1:
        return 1.0, 0.0
    scale = scale.reshape(())
    return scale, 0.0 if zero is None else -scale * zero.reshape(-1)[0].astype(float)


def _constants(proto: Any) -> dict[str, NDArray[Any]]:
    """What a network computes with, by name; quantised ones as the numbers that they mean."""
    from onnx import numpy_helper

    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            factor, offset = _restoring(node, constants)
            constants[node.output[0]] = constants[node.input[0]] * factor + offset
    return constants


def _batch_norm(node: Any, constants: Sequence[Any], _: bool) -> tuple[Any, Any]:
    gamma, beta, mean, variance = constants
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    return factor, beta - mean * factor


_AFFINE: Mapping[str, Callable[[Any, Sequence[Any], bool], tuple[Any, Any]]] = {
    "Mul": lambda _, c, __: (c[0], 0),
    "Add": lambda _, c, __: (1, c[0]),
    "Sub": lambda _, c, input_first: (1, -c[0]) if input_first else (-1, c[0]),
    "BatchNormalization": _batch_norm,
    "Cast": lambda *_: (1, 0),
    "Identity": lambda *_: (1, 0),
    "Div": lambda _, c, __: (1 / c[0], 0),
}
"""Operator -> the (factor, offset) it applies, from the node, its constants, and whether the tensor
is its first input."""
