"""Which channels the convolutions that read them can best do without, and how they make up for it.

A convolution's weights on a channel that goes are led over to the channels that stay, as far as
these predict it: least squares, as in He et al., "Channel Pruning for Accelerating Very Deep Neural
Networks", ICCV 2017, section 3.1. Channels go one after the other, each time the one that leaves
least over (Hassibi and Stork, "Second order derivatives for network pruning", NIPS 1992). Each
position of a kernel is made up for at that position, so that one Gram matrix of a tensor's
channels serves every kernel that reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graphopt.ir.convolution import Convolution

Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]

RIDGE = 1e-3
"""Added to the mean square of each channel, relative to their mean: what predicts another channel
must do so on other photos, too."""


class ChannelConsumer:
    """A tensor, and the convolutions that mix its channels.

    Args:
        system: [C+1, C+1], mean products of the channels, and of a one, last.
        specs: the convolutions; none is grouped.
        members: [candidates, C], which channels of the tensor go with a candidate.
    """

    def __init__(
        self, system: Doubles, specs: Sequence[Convolution], members: NDArray[np.bool_]
    ) -> None:
        self._specs, self._members = specs, members
        pull = RIDGE * max(float(np.diag(system)[:-1].mean()), 1e-30)
        self._inverse = np.linalg.inv(
            system + np.diag(np.append(np.full(len(system) - 1, pull), 0))
        )
        mean = system[-1, :-1]
        covariance = system[:-1, :-1] - np.outer(mean, mean)
        columns = [_by_channel(spec).reshape(spec.in_channels, -1) for spec in specs]
        # What is lost counts in relation to how much a convolution's output varies.
        energies = [max(float(((covariance @ w) * w).sum()), 1e-30) for w in columns]
        self._scales = [energy**-0.5 for energy in energies]
        scaled = [w * scale for w, scale in zip(columns, self._scales, strict=True)]
        self._weights = np.pad(np.concatenate(scaled, axis=1), ((0, 1), (0, 0)))

    def costs(self) -> Doubles:
        """What each candidate's going would add to the squared error of the outputs."""
        alone = np.square(self._weights).sum(axis=1) / np.diag(self._inverse)
        costs: Doubles = self._members @ alone[:-1]
        return costs

    def drop(self, candidate: int) -> None:
        """Let a candidate's channels go, and what stays make up for them."""
        for channel in np.flatnonzero(self._members[candidate]):
            pivot = self._inverse[channel, channel]
            step = self._inverse[:, channel] / pivot
            self._weights -= np.outer(step, self._weights[channel])
            self._inverse -= np.outer(step, self._inverse[channel])
            self._weights[channel] = 0
            self._inverse[channel, channel] = 1  # it costs nothing any more

    def refitted(self) -> list[Convolution]:
        """The convolutions with their new weights, zero for channels that went, and biases."""
        ends = np.cumsum([spec.weight.size // spec.in_channels for spec in self._specs])
        parts = np.split(self._weights, ends[:-1], axis=1)
        return [
            _refitted(spec, part / scale)
            for spec, part, scale in zip(self._specs, parts, self._scales, strict=True)
        ]


def eliminate(readings: Sequence[ChannelConsumer], num_pruned: int) -> tuple[Indices, float]:
    """Let `num_pruned` of the readings' common candidates go, those that cost least.

    Returns:
        Which, in order; and the part of the outputs' variance that is lost, a mean over readings.
    """
    dropped: list[int] = []
    lost = 0.0
    for _ in range(num_pruned):
        costs = np.sum([reading.costs() for reading in readings], axis=0)
        costs[dropped] = np.inf
        dropped.append(int(np.argmin(costs)))
        lost += float(costs[dropped[-1]])
        for reading in readings:
            reading.drop(dropped[-1])
    return np.array(dropped, np.intp), lost / len(readings)


def _by_channel(spec: Convolution) -> Doubles:
    """Weights as [channels read, filters, *kernel]."""
    weight = spec.weight if spec.op == "ConvTranspose" else spec.weight.swapaxes(0, 1)
    return weight.astype(np.float64)


def _refitted(spec: Convolution, solution: Doubles) -> Convolution:
    by_channel = solution[:-1].reshape(spec.in_channels, spec.out_channels, *spec.kernel)
    weight = by_channel if spec.op == "ConvTranspose" else by_channel.swapaxes(0, 1)
    # Away from the border every position of the kernel adds its share of the constant; of a
    # transposed one only every stride-th does.
    shares = 1 if spec.op == "Conv" else np.prod(spec.strides)
    constant = solution[-1].reshape(spec.out_channels, -1).sum(axis=1) / shares
    bias = constant if spec.bias is None else spec.bias + constant
    dtype = spec.weight.dtype
    return replace(spec, weight=weight.astype(dtype), bias=bias.astype(dtype))
