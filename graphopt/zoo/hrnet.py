"""HRNet and HigherHRNet: branches of several resolutions that exchange what they see."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.zoo.blocks import Net, Outputs, Tensor, channels

JOINTS = 17
"""Key points of COCO; each has a heat map and a tag that says whose it is."""
WIDTH = 32
MODULES = (1, 4, 3)
"""Modules of the stages with two, three and four branches (Sun et al., CVPR 2019, section 3)."""


def hrnet(net: Net) -> Outputs:
    """HRNet-W32 from the bottom up, as HigherHRNet's authors compare it (table 1 there)."""
    return {"maps": net.maps(_body(net), 2 * JOINTS)}


def higherhrnet(net: Net) -> Outputs:
    """HigherHRNet-W32 (Cheng et al., CVPR 2020, section 3): heat maps at a half, too."""
    return higher_heads(net, _body(net), blocks=4)


def higher_heads(net: Net, x: Tensor, blocks: int) -> Outputs:
    """Heat maps and tags of features, and heat maps at twice their size."""
    with net.scope("heads"):
        maps = net.maps(x, 2 * JOINTS)
        x = net.doubled(net.concat(x, maps), channels(x))
        for _ in range(blocks):
            x = net.basic(x)
        return {"maps": maps, "heat": net.maps(x, JOINTS)}


def _body(net: Net) -> Tensor:
    with net.scope("stem"):
        x = net.unit(net.unit(net.image, 64, 3, stride=2), 64, 3, stride=2)
        for _ in range(4):
            x = net.bottleneck(x, 64)
    branches = [net.unit(x, WIDTH, 3)]
    for stage, count in enumerate(MODULES, start=1):
        branches.append(net.unit(x, WIDTH << stage, 3, stride=2))
        with net.scope(f"stage{stage + 1}"):
            branches = modules(net, branches, count, blocks=4, last=stage == len(MODULES))
        x = branches[-1]
    return branches[0]


def modules(
    net: Net, branches: Sequence[Tensor], count: int, *, blocks: int, last: bool
) -> list[Tensor]:
    """So many modules: each has some blocks a branch, then all branches' sums.

    Of the last stage's last module only the finest branch is left.
    """
    for module in range(count):
        with net.scope(f"module{module + 1}"):
            deep = [_blocks(net, x, blocks) for x in branches]
            wanted = 1 if last and module + 1 == count else len(deep)
            branches = [_sum(net, deep, target) for target in range(wanted)]
    return list(branches)


def _blocks(net: Net, x: Tensor, count: int) -> Tensor:
    for _ in range(count):
        x = net.basic(x)
    return x


def _sum(net: Net, branches: Sequence[Tensor], target: int) -> Tensor:
    """All branches at one's resolution, added."""
    filters = channels(branches[target])
    terms = []
    for place, x in enumerate(branches):
        for step in range(place + 1, target + 1):
            if step < target:
                x = net.unit(x, channels(x), 3, stride=2)
            else:
                x = net.unit(x, filters, 3, "none", stride=2)
        if place > target:
            x = net.enlarged(net.unit(x, filters, activation="none"), 1 << (place - target))
        terms.append(x)
    return net.activate(net.add(*terms), "relu")
