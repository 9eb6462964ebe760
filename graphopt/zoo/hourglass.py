"""The stacked hourglass of associative embedding."""

from __future__ import annotations

from graphopt.zoo.blocks import Net, Outputs, Tensor, channels

STACKS = 4
MAPS = 68
"""Heat maps and tags of 17 key points, and as many channels that nobody reads."""


def associative_embedding(net: Net) -> Outputs:
    """Associative embedding (Newell et al., NIPS 2017): hourglasses of plain 3x3 convolutions."""
    with net.scope("stem"):
        x = net.conv(net.image, 64, 7, "relu", stride=2)
        x = net.max_pool(net.conv(x, 128, 3, "relu"), 2)
        x = net.conv(net.conv(x, 128, 3, "relu"), 256, 3, "relu")
    for stack in range(1, STACKS + 1):
        with net.scope(f"stack{stack}"):
            y = _hourglass(net, x, 4)
            y = net.conv(net.conv(y, 256, 3, "relu"), 256, 3, "relu")
            maps = net.maps(y, MAPS)
            if stack < STACKS:
                x = net.add(x, net.conv(maps, 256), net.conv(y, 256))
    return {"maps": maps}


def _hourglass(net: Net, x: Tensor, levels: int) -> Tensor:
    """A convolution, and around it a coarser hourglass, 128 channels wider."""
    wide = channels(x) + 128
    inner = net.conv(net.max_pool(x, 2), wide, 3, "relu")
    inner = _hourglass(net, inner, levels - 1) if levels > 1 else net.conv(inner, wide, 3, "relu")
    inner = net.enlarged(net.conv(inner, channels(x), 3, "relu"), 2)
    return net.add(net.conv(x, channels(x), 3, "relu"), inner)
