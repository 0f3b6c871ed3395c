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
    weight = 1 / np.square(sky_rms)
    snr = np.stack([np.einsum("nbhw,nb->nhw", layer, weight) for layer in (source, lens, others)])
    snr /= np.sqrt(weight.sum(1))[:, None, None]
    # The layers are stacked in the order of the first three classes.
    return np.where(snr.max(0) > threshold, snr.argmax(0), CLASSES.index("background")).astype(np.uint8)
