"""OpenPose: VGG-19's first ten layers, then stages that refine maps with 7x7 convolutions."""

from __future__ import annotations

from graphopt.zoo.blocks import Net, Outputs

POOL = 0
VGG = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, 256, POOL, 512, 512, 256, 128)
"""Filters of the backbone's 3x3 convolutions; the last two are OpenPose's own."""
MAPS = {"heat": 19, "paf": 38}
"""Channels of each branch: 18 key points and background; x and y of 19 limbs."""


def openpose(net: Net, *, stages: int) -> Outputs:
    """OpenPose (Cao et al., TPAMI 2019; the COCO model of the CVPR 2017 version, figure 3)."""
    x = net.image
    with net.scope("backbone"):
        for filters in VGG:
            x = net.max_pool(x, 2) if filters == POOL else net.conv(x, filters, 3, "relu")
    features, maps = x, {}
    for stage in range(stages):
        kernel, depth, wide = (7, 5, 128) if stage else (3, 3, 512)
        for name, count in MAPS.items():
            with net.scope(f"stage{stage + 1}/{name}"):
                y = x
                for _ in range(depth):
                    y = net.conv(y, 128, kernel, "relu")
                maps[name] = net.maps(net.conv(y, wide, activation="relu"), count)
        if stage + 1 < stages:
            x = net.concat(maps["paf"], maps["heat"], features)
    return maps
