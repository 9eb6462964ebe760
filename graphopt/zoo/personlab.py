"""PersonLab: a ResNet-152 that answers with heat maps and offsets."""

from __future__ import annotations

from graphopt.zoo.blocks import Net, Outputs

GROUPS = ((3, 64, 1, 1), (8, 128, 2, 1), (36, 256, 2, 1), (3, 512, 1, 2))
"""Blocks, width, stride and dilation of each group of ResNet-152, at an output stride of 16."""
HEADS = {"heat": 17, "short_offsets": 34, "mid_offsets": 64, "long_offsets": 34, "persons": 1}
"""Channels: key points; x and y to the nearest one, along 16 limbs both ways, and to each key point
of the person; where people are."""


def personlab(net: Net) -> Outputs:
    """PersonLab (Papandreou et al., ECCV 2018, section 3) with ResNet-152."""
    with net.scope("backbone"):
        x = net.max_pool(net.unit(net.image, 64, 7, stride=2), 3)
        for blocks, width, stride, dilation in GROUPS:
            for block in range(blocks):
                x = net.bottleneck(x, width, stride=1 if block else stride, dilation=dilation)
    return {name: net.maps(x, count) for name, count in HEADS.items()}
