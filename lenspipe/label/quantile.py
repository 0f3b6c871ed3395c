"""Pixel classes by quantiles of each layer, as sets of lens and arc masks are often made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lenspipe.label.masks import loudest, signal_to_noise


def label(
    source: NDArray[np.float32],
    lens: NDArray[np.float32],
    others: NDArray[np.float32],
    sky_rms: NDArray[np.float64],
    lens_quantile: float,
    arc_quantile: float,
    floor: float,
) -> NDArray[np.uint8]:
    """``lens``: the lens layer at or above its own quantile; ``source``: likewise; the brighter where both hold.

    Quantiles are taken of each image's layer, the bands weighted as for S/N. A mask's area is then the same whatever
    the object, so `floor` asks for some S/N too: an image without an arc has no arc, and faint ones have smaller masks.
    Other objects have no class of their own here: they are background.

    Returns
    -------
    (N, H, W) u1 indices into `lenspipe.types.CLASSES`.
    """
    strength = []
    for layer, quantile in ((source, arc_quantile), (lens, lens_quantile)):
        snr = signal_to_noise(layer, sky_rms)
        least = np.quantile(snr, quantile, axis=(1, 2), keepdims=True)
        strength.append(np.where((snr >= least) & (snr > floor), snr, np.float32(0)))
    return loudest([*strength, np.zeros_like(strength[0])], 0.0)
