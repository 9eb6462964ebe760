"""ResNet-50 of other depths and widths with OpenPose's branches: the paper's family, inferred.

Shen et al. (IJCAI 2021) give layers and multiply-adds of four such networks (table 1) and the
parameters of one (table 2), but no definition. Assumed here: the backbone is ResNet-50's stem, its
first group of three blocks, and its second group, of more and narrower blocks; so the output has
stride 8, and the layers that the paper counts are convolutions (24 are ResNet-50's own). The rest
is Lightweight OpenPose's, but heat maps and PAFs have branches of their own, as the paper's
analysis of their sensitivity needs, and three 3x3 in place of 7x7. Other heads fit as well.
"""

from __future__ import annotations

from graphopt.errors import UsageError
from graphopt.zoo.blocks import Net, Outputs
from graphopt.zoo.lightweight_openpose import context
from graphopt.zoo.openpose import MAPS

OUTSIDE = 12
"""Convolutions of a backbone outside the second group's blocks: the stem, three blocks of three,
two shortcuts."""


def resnet50(net: Net, *, depth: int, width: int, refinements: int) -> Outputs:
    """The network whose backbone has `depth` convolutions, its second group `width` inside.

    Raises:
        InputError: no such depth: 12 and three for each block.
    """
    blocks, rest = divmod(depth - OUTSIDE, 3)
    if rest or blocks < 1:
        raise UsageError(
            f"a backbone of bottlenecks cannot have {depth} layers",
            hint=f"{OUTSIDE} and three for each block of the second group: 15, 18, 21 …",
        )
    with net.scope("backbone"):
        x = net.max_pool(net.unit(net.image, 64, 7, stride=2), 3)
        for _ in range(3):
            x = net.bottleneck(x, 64)
        for block in range(blocks):
            x = net.bottleneck(x, width, stride=1 if block else 2)
    features = x = context(net, x)
    maps = {}
    for stage in range(1 + refinements):
        wide, layers = (128, 9) if stage else (512, 3)
        for name, count in MAPS.items():
            with net.scope(f"stage{stage + 1}/{name}"):
                y = x
                for _ in range(layers):
                    y = net.unit(y, 128, 3, bias=True) if stage else net.conv(y, 128, 3, "relu")
                maps[name] = net.maps(net.conv(y, wide, activation="relu"), count)
        x = net.concat(features, *maps.values()) if stage < refinements else x
    return maps
