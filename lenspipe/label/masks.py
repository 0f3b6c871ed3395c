"""Pixel classes by signal to noise: what can be seen is labelled, what cannot be seen is background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lenspipe.types import CLASSES


def label(
    source: NDArray[np.float32],
    lens: NDArray[np.float32],
    others: NDArray[np.float32],
    sky_rms: NDArray[np.float64],
    threshold: float,
) -> NDArray[np.uint8]:
    """Each pixel's class is the layer with the most flux there, where that flux stands out of the sky.

    Bands are added with inverse-variance weights: F = sum_b f_b / s_b^2 has the noise (sum_b 1 / s_b^2)^(1/2), so a
    layer's S/N is their ratio. The sky's noise alone counts (not the other layers' photon noise): the label of a pixel
    does not depend on how bright the neighbours are.

    Parameters
    ----------
    source, lens, others : (N, B, H, W) noiseless flux per pixel, PSF applied.
    sky_rms : (N, B), in the same unit.
    threshold : S/N below which a pixel is background.

    Returns
    -------
    (N, H, W) u1 indices into `lenspipe.types.CLASSES`; ``others`` become the class ``noise``.
    """
    # The layers are in the order of the first three classes.
    return loudest([signal_to_noise(layer, sky_rms) for layer in (source, lens, others)], threshold)


def signal_to_noise(layer: NDArray[np.floating], sky_rms: NDArray[np.float64]) -> NDArray[np.float32]:
    """(N, H, W) S/N of (N, B, H, W) flux, the bands together."""
    weight = np.square(1 / sky_rms) / np.sqrt(np.square(1 / sky_rms).sum(1, keepdims=True))
    weight = weight.astype(layer.dtype)[:, :, None, None]
    added = layer[:, 0] * weight[:, 0]
    for band in range(1, layer.shape[1]):
        added += layer[:, band] * weight[:, band]
    return np.asarray(added, dtype=np.float32)


def loudest(strength: list[NDArray[np.float32]], threshold: float) -> NDArray[np.uint8]:
    """(N, H, W) u1: which of the three (N, H, W) is the largest, background where none exceeds `threshold`.

    Of equal ones the first counts.
    """
    source, lens, others = strength
    first = np.maximum(source, lens)
    # 0, 1, 2 by comparisons, several times faster than an argmax along a short axis.
    result = np.where(others > first, np.uint8(2), (lens > source).view(np.uint8))
    result[np.maximum(first, others) <= threshold] = CLASSES.index("background")
    return np.asarray(result, dtype=np.uint8)
