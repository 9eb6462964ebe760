"""The figures of a device's profile, fitted to kernels that were timed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from graphopt.analysis.latency.device import Device, Figure, LayerClass, Precision
from graphopt.analysis.latency.predict import time_of
from graphopt.analysis.latency.work import Work

FITTED = tuple(kind for kind in LayerClass if kind is not LayerClass.WINOGRAD)
"""The classes that have a rate on any machine; Winograd's where a kernel for it was chosen."""


@dataclass(frozen=True)
class Profile:
    """A measured device.

    Args:
        device: the profile.
        kernels: how many kernels it was fitted to.
        error: mean relative difference of predicted to measured time over them.
        errors: the same of each lower precision.
    """

    device: Device
    kernels: int
    error: float
    errors: Mapping[Precision, float] = field(default_factory=dict)


def fit(pairs: Sequence[tuple[Work, float]], template: Device, command: str) -> Profile:
    """Fit the figures of the latency model to measured kernels.

    Args:
        pairs: kernels, and milliseconds for each.
        template: what is not fitted: lanes, bytes of an element, names.
        command: what to say about where the figures come from.
    """
    # A class that no launch could be found for is left to the class that stands in for it.
    kinds = _found_in(pairs, template.rates)
    traffic = np.array([w.bytes for w, _ in pairs], np.float64)
    measured = np.array([ms for _, ms in pairs])
    # Start where most kernels of a class lie below the roof that its rate and the bandwidth are.
    roofs = _roofs(np.column_stack([_operations(pairs, kinds), traffic]), measured)
    start = np.array([*roofs, max(1e3 * measured.min(), 1.1)])
    # Nothing is launched in less than a microsecond; beside kernels that all take long, a fit could
    # not tell.
    least = [0.0] * (len(start) - 1) + [1.0]
    *rates, bandwidth, launch = _fitted(pairs, kinds, start, least)

    def device(source: str) -> Device:
        figures = [Figure(value=value, source=source) for value in rates]
        return replace(
            template,
            rates=dict(zip(kinds, figures, strict=True)),
            bandwidth=Figure(value=bandwidth, source=source),
            launch=Figure(value=launch, source=source),
        )

    error = _error(pairs, device(command))
    return Profile(device(f"{command}: {_told(pairs, error)}"), len(pairs), error)


def fit_rates(
    pairs: Sequence[tuple[Work, float]], device: Device, precision: Precision, command: str
) -> tuple[dict[LayerClass, Figure], float]:
    """Fit the rates of a precision alone: bandwidth and launch are those of float32.

    Args:
        pairs: kernels, and milliseconds for each, in that precision.
        device: the profile, fitted to float32; exponentials are computed in that.
        precision: what rates are wanted of.
        command: as in `fit`.

    Returns:
        The rates, and the mean relative difference of predicted to measured time.
    """
    quantised = precision == "int8"  # what else such a network has is no matter of precision
    own = [(work, ms) for work, ms in pairs if work.precision == precision or not quantised]
    kinds = [kind for kind in _found_in(own, device.rates) if kind not in _EXPONENTIALS]
    fixed = [*_found_in(own, _EXPONENTIALS)]
    known = [*(device.rate(kind) or 1.0 for kind in fixed), device.bandwidth.value]
    roofs = _roofs(_operations(own, kinds), np.array([ms for _, ms in own]))
    start = np.array([*roofs, *known, device.launch.value])
    rates = _fitted(own, [*kinds, *fixed], start, None, free=len(kinds))

    def figures(source: str) -> dict[LayerClass, Figure]:
        return {k: Figure(value=v, source=source) for k, v in zip(kinds, rates, strict=False)}

    found = replace(device, precisions={precision: figures(command)})
    error = _error(own, found if quantised else found.computing_in(precision) or found)
    return figures(f"{command}: {_told(own, error)}"), error


_EXPONENTIALS = (LayerClass.EXPONENTIAL, LayerClass.EXPONENTIAL_ALONE)


def _fitted(
    pairs: Sequence[tuple[Work, float]],
    kinds: Sequence[LayerClass],
    start: NDArray[np.float64],
    least: Sequence[float] | None,
    free: int | None = None,
) -> list[float]:
    """Figures of the least error: of each class, bandwidth, launch.

    The sum of squared logarithms of predicted over measured time is made small (soft L1, so that a
    disturbed measurement cannot pull it), since a factor of two is as wrong for a small kernel as
    for a large one.

    Args:
        pairs: kernels, and milliseconds for each.
        kinds: classes, in the order of the figures.
        start: where to start.
        least: what figures may not fall below.
        free: how many of them, the first, may differ from where they start; None: all.
    """
    # The model's terms as arrays: operations for each kernel and rate, bytes, and times.
    operations = _operations(pairs, kinds)
    traffic = np.array([w.bytes for w, _ in pairs], np.float64)
    measured = np.array([ms for _, ms in pairs])
    moves = np.array([kind is LayerClass.BANDWIDTH for kind in kinds], bool)
    begin, fixed = np.split(np.log(start), [len(start) if free is None else free])

    def residuals(moving: Any) -> Any:
        logarithms = np.append(moving, fixed)
        *_, bandwidth, launch = np.exp(logarithms)
        spent = operations * np.exp(-logarithms[:-2])
        moved = np.maximum(spent @ moves, traffic / bandwidth)
        ms = np.maximum(spent @ ~moves, moved) * 1e-6 + launch * 1e-3
        off = np.log(ms / measured)
        # Other programs only ever make a kernel slower: to be faster than was measured is the
        # smaller fault. What no kernel depends on stays where it starts.
        return np.append(np.where(off < 0, 0.4, 1.0) * off, 0.05 * (moving - begin))

    with np.errstate(divide="ignore"):
        lower = -np.inf if least is None else np.log(least)
    found = least_squares(residuals, begin, bounds=(lower, np.inf), loss="soft_l1", f_scale=0.1)
    return [float(f"{value:.3g}") for value in np.exp(np.append(found.x, fixed))]


def _found_in(pairs: Sequence[tuple[Work, float]], kinds: Iterable[LayerClass]) -> list[LayerClass]:
    """Classes that any kernel has something of."""
    amounts = [work.amounts() for work, _ in pairs]
    return [kind for kind in kinds if any(todo.get(kind) for todo in amounts)]


def _operations(
    pairs: Sequence[tuple[Work, float]], kinds: Sequence[LayerClass]
) -> NDArray[np.float64]:
    """What each kernel has to do at each class's rate."""
    return np.array([[work.amounts().get(kind, 0.0) for kind in kinds] for work, _ in pairs])


def _roofs(amounts: NDArray[np.float64], measured: NDArray[np.float64]) -> list[float]:
    """What most kernels of each class do not exceed."""
    speeds = amounts / measured[:, None] * 1e-6
    return [float(np.percentile(column[column > 0], 80)) for column in speeds.T]


def _error(pairs: Sequence[tuple[Work, float]], device: Device) -> float:
    return float(np.mean([abs(time_of(work, device)[0] / ms - 1) for work, ms in pairs]))


def _told(pairs: Sequence[tuple[Work, float]], error: float) -> str:
    return f"fit to {len(pairs)} kernels, mean error {error:.0%}"
