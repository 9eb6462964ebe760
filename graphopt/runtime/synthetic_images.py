"""Made-up images with the statistics of photos, for where there are none.

Amplitude falls as 1/frequency (Field, J. Opt. Soc. Am. A 4, 1987), colour channels are correlated
at about 0.9, and mean and deviation are ImageNet's (Simoncelli and Olshausen, Annu. Rev. Neurosci.
24, 2001).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MEAN, DEVIATION = 114.0, 58.0
"""Mean and deviation of ImageNet's pixels, 0..255."""


def natural_noise(shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Random fields, mean 0 and deviation 1, with a 1/f amplitude spectrum in the last two axes.

    Args:
        shape: of any rank from 2 on; the last two axes are height and width.
        rng: where the randomness comes from.
    """
    height, width = shape[-2:]
    fy = np.fft.fftfreq(height)[:, None]
    fx = np.fft.rfftfreq(width)[None, :]
    frequency = np.maximum(np.hypot(fy, fx), 1.0 / max(height, width))
    white = np.fft.rfft2(rng.standard_normal(shape))
    image = np.fft.irfft2(white / frequency, s=(height, width))
    normalised: NDArray[np.float64] = (image - image.mean()) / max(image.std(), 1e-12)
    return normalised


def natural_photo(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """A made-up photo [3,height,width] of pixels 0..255; the same one for the same seed."""
    rng = np.random.default_rng(seed)
    grey, tint = natural_noise((height, width), rng), natural_noise((3, height, width), rng)
    pixels = MEAN + DEVIATION * (0.95 * grey + 0.31 * tint)
    return pixels.clip(0, 255).astype(np.float32)
