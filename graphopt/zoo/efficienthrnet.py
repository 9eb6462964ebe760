"""EfficientHRNet: a scaled EfficientNet, HRNet's branches of scaled widths, HigherHRNet's heads."""

from __future__ import annotations

from graphopt.zoo.blocks import Net, Outputs, Tensor
from graphopt.zoo.efficientnet import GROUPS, backbone
from graphopt.zoo.hrnet import higher_heads, modules

SCALED = {
    0: (512, (32, 64, 128, 256), (1, 4, 3)),
    1: (480, (26, 52, 103, 206), (1, 3, 3)),
    2: (448, (21, 42, 83, 166), (1, 2, 3)),
    3: (416, (17, 34, 67, 133), (1, 1, 3)),
    4: (384, (14, 27, 54, 107), (1, 1, 2)),
}
"""For H-0 to H-4: input size, widths of the branches, modules of the stages."""
READ = (1, 2, 4, 6)
"""The groups of the backbone whose features branches start from, at 1/4, 1/8, 1/16 and 1/32."""


def efficienthrnet(net: Net, *, scale: int) -> Outputs:
    """EfficientHRNet H-`scale` (Neff et al., 2020, section 3 and table 1).

    Every stage begins with a 3x3 convolution in each of its branches.
    """
    _, widths, counts = SCALED[scale]
    made = backbone(net, GROUPS, compound=-scale)
    features = [made[group] for group in READ]
    branches: list[Tensor] = features[:1]
    for stage, count in enumerate(counts, start=1):
        with net.scope(f"stage{stage}"):
            starts = zip([*branches, features[stage]], widths, strict=False)
            branches = [net.unit(x, width, 3, bias=True) for x, width in starts]
            branches = modules(net, branches, count, blocks=2, last=stage == len(counts))
    return higher_heads(net, branches[0], blocks=2)
