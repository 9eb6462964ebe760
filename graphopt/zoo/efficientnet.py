"""EfficientNet's backbone, and the paper's pose network with it, inferred."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.zoo.blocks import Net, Outputs, Tensor
from graphopt.zoo.lightweight_openpose import context, heads, initial

GROUPS = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
"""EfficientNet-B0: expansion, channels, blocks, kernel and stride of each group of blocks."""


def backbone(
    net: Net, groups: Sequence[tuple[int, int, int, int, int]], compound: int = 0
) -> list[Tensor]:
    """What each group makes (Tan and Le, ICML 2019, table 1).

    Args:
        net: the network.
        groups: see `GROUPS`.
        compound: the exponent of 1.1 for widths and of 1.2 for depths.
    """
    width, depth = 1.1**compound, 1.2**compound
    features = []
    with net.scope("backbone"):
        x = net.unit(net.image, _rounded(32 * width), 3, "swish", stride=2)
        for expand, filters, blocks, kernel, stride in groups:
            wide = _rounded(filters * width)
            for block in range(math.ceil(blocks * depth)):
                with net.scope("block"):
                    step = 1 if block else stride
                    x = net.inverted(x, wide, kernel, expand=expand, stride=step)
            features.append(x)
    return features


def _rounded(filters: float) -> int:
    """A multiple of 8, at least nine tenths of `filters`."""
    near = max(8, int(filters + 4) // 8 * 8)
    return near if near >= 0.9 * filters else near + 8


def efficientnet_pose(net: Net, *, refinements: int) -> Outputs:
    """EfficientNet-B0 up to its fourth group, at stride 8, and Lightweight OpenPose's stages.

    Shen et al. (IJCAI 2021, table 2) give the pruned network's parameters and how far it is
    pruned; of many that would have as many, this is one. Refinements have three 3x3 in place of
    each dilated block.
    """
    groups = [*GROUPS[:3], (*GROUPS[3][:4], 1)]
    features = context(net, backbone(net, groups)[-1])
    maps = initial(net, features)
    for number in range(refinements):
        with net.scope(f"refinement{number + 1}"):
            x = net.concat(features, *maps.values())
            for _ in range(15):
                x = net.unit(x, 128, 3, bias=True)
            maps = heads(net, x, 128)
    return maps
