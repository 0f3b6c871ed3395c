"""Noise where no map of it came with the image: sky level and scatter from the image itself, photon noise on top."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

_BOX = 9
"""Side of the box (pixels) that takes the galaxy out before the scatter is measured."""
_GAUSS = 1.5
"""Pixels; smoothing before objects are told from blank sky."""
_FEWEST = 16
"""Pixels below which nothing is measured."""


def measure_background(image: ArrayLike, usable: ArrayLike, blank: ArrayLike | None = None) -> tuple[float, float]:
    """Sky level and rms of the blank sky.

    Without `blank`, the rms is the clipped scatter about a running median over the fainter half of the image, so that
    a galaxy that fills the cutout leaves it within some per cent; noise correlated over a few pixels stays in. The
    sky is the clipped median of pixels away from anything 3 sigma above it on a smoothed image; the wings of a large
    galaxy still raise it.

    Parameters
    ----------
    image : (H, W), any flux unit.
    usable : (H, W) bool.
    blank : (H, W) bool, pixels known to be blank sky, such as the background class of a segmentation; sky and rms are
        then their clipped median and scatter.

    Returns
    -------
    (sky, rms) in the unit of `image`; NaN where fewer than 16 pixels can be used.
    """
    ok = np.asarray(usable, dtype=bool) & np.isfinite(image)
    if blank is not None:
        ok &= np.asarray(blank, dtype=bool)
    if ok.sum() < _FEWEST:
        return math.nan, math.nan
    pixels = np.asarray(image, dtype=np.float64)
    if blank is not None:
        kept = _clip(pixels[ok])
        return float(np.median(kept)), _deviation(kept)
    filled = np.where(ok, pixels, np.median(pixels[ok]))
    level = ndimage.uniform_filter(filled, _BOX)
    faint = ok & (level <= np.median(level[ok]))
    # The median of n pixels has variance (pi / 2n) sigma^2 and partly follows the pixel it is taken from.
    rms = _deviation(_clip((filled - ndimage.median_filter(filled, _BOX))[faint]))
    rms /= math.sqrt(1 - math.pi / 2 / _BOX**2)
    return _sky(filled, ok, rms), rms


def sigma_map(
    image: ArrayLike, usable: ArrayLike, background_rms: float = math.nan, exposure_time: float = math.nan
) -> tuple[NDArray[np.float64], float, float]:
    """Total noise, ``sigma^2 = background_rms^2 + max(image - sky, 0) / exposure_time``.

    Parameters
    ----------
    image : (H, W), any flux unit.
    usable : (H, W) bool.
    background_rms : unit of `image`; NaN: measured, with the sky. Where it is given the sky counts as subtracted.
    exposure_time : effective gain, electrons per unit of flux; NaN: no photon noise of the objects.

    Returns
    -------
    sigma (H, W), sky, background rms.
    """
    sky = 0.0
    if not math.isfinite(background_rms):
        sky, background_rms = measure_background(image, usable)
    return total_sigma(image, sky, background_rms, exposure_time), sky, background_rms


def total_sigma(image: ArrayLike, sky: float, background_rms: float, exposure_time: float) -> NDArray[np.float64]:
    """(H, W) sigma of known sky level and rms; the formula of `sigma_map`. Pixels that are not finite get the rms."""
    flux = np.nan_to_num(np.asarray(image, dtype=np.float64) - sky, nan=0.0, posinf=0.0, neginf=0.0).clip(min=0.0)
    photons = flux / exposure_time if math.isfinite(exposure_time) else 0.0 * flux
    return np.sqrt(background_rms**2 + photons)


def _sky(filled: NDArray[np.float64], ok: NDArray[np.bool_], rms: float) -> float:
    smooth = ndimage.gaussian_filter(filled, _GAUSS)
    white = rms / (2 * math.sqrt(math.pi) * _GAUSS)
    blank, sky = ok, float(np.median(_clip(filled[ok])))
    for _ in range(20):
        # Correlated noise scatters more after smoothing than white noise: its lower half shows by how much.
        below = smooth[blank & (smooth < sky)]
        scatter = max(white, float(np.sqrt(np.mean((below - sky) ** 2))) if below.size else 0.0)
        blank = ok & ~ndimage.binary_dilation(smooth - sky > 3 * scatter, iterations=2)
        if blank.sum() < max(_FEWEST, 0.03 * ok.sum()):
            break
        old, sky = sky, float(np.median(_clip(filled[blank])))
        if abs(sky - old) < 0.01 * rms:
            break
    return sky


def _clip(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` within 3 sigma of their median, sigma from the median absolute deviation, until none is left outside."""
    for _ in range(50):
        away = np.abs(values - np.median(values))
        keep = away <= 3 * 1.4826 * np.median(away)
        if keep.all():
            break
        values = values[keep]
    return values


def _deviation(clipped: NDArray[np.float64]) -> float:
    """Standard deviation of a Gaussian of which `clipped` is what lies within 3 sigma."""
    return float(clipped.std() / 0.9866)
