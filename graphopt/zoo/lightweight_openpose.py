"""Lightweight OpenPose, and the parts of it that other networks take over."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.zoo.blocks import RESIDUAL, Net, Outputs, Tensor, channels
from graphopt.zoo.openpose import MAPS

LAYERS = ((64, 1, 1), (128, 2, 1), (128, 1, 1), (256, 2, 1), (256, 1, 1), (512, 1, 1), (512, 1, 2))
"""MobileNet's first separable layers: filters, stride, dilation; four more are like the sixth."""


def lightweight_openpose(net: Net, *, refinements: int) -> Outputs:
    """Lightweight OpenPose (Osokin, 2018, section 4): MobileNet, shared trunks, dilated blocks."""
    with net.scope("backbone"):
        x = net.unit(net.image, 32, 3, stride=2)
        for filters, stride, dilation in LAYERS:
            x = net.separable(x, filters, stride=stride, dilation=dilation)
        for _ in range(4):
            x = net.separable(x, 512)
    features = context(net, x)
    maps = initial(net, features)
    for number in range(refinements):
        with net.scope(f"refinement{number + 1}"):
            x = net.concat(features, *maps.values())
            for _ in range(5):
                entry = net.conv(x, 128, activation="relu")
                x = net.unit(entry, 128, 3, bias=True)
                x = net.unit(x, 128, 3, bias=True, dilation=2, scale=RESIDUAL)
                x = net.add(entry, x)
            maps = heads(net, x, 128)
    return maps


def context(net: Net, x: Tensor) -> Tensor:
    """A backbone's features brought to 128 channels."""
    with net.scope("context"):
        aligned = x = net.conv(x, 128, activation="relu")
        for _ in range(3):
            x = net.conv(x, 128, 3, "elu", group=channels(x), bias=False)
            x = net.conv(x, 128, 1, "elu", bias=False)
        return net.conv(net.add(aligned, x), 128, 3, "relu")


def initial(net: Net, features: Tensor) -> Mapping[str, Tensor]:
    """The maps of the initial stage."""
    with net.scope("initial"):
        x = features
        for _ in range(3):
            x = net.conv(x, 128, 3, "relu")
        return heads(net, x, 512)


def heads(net: Net, x: Tensor, wide: int) -> dict[str, Tensor]:
    """Maps from a trunk that they share."""
    maps = {}
    for name, count in MAPS.items():
        with net.scope(name):
            maps[name] = net.maps(net.conv(x, wide, activation="relu"), count)
    return maps
