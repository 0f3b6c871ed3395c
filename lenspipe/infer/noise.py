"""Noise where no map of it came with the image: sky level and scatter from the image itself, photon noise on top."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

_BOX = 9
"""Side of the box (pixels) whose mean takes a galaxy's wings out before the scatter is measured."""
_GAUSS = 1.5
"""Pixels; smoothing before objects are told from blank sky."""
_SMOOTHED = 1 / (2 * math.sqrt(math.pi) * _GAUSS)
"""What white noise is multiplied by in that smoothing."""
_FEWEST = 16
"""Pixels below which nothing is measured."""


def measure_background(image: ArrayLike, usable: ArrayLike, blank: ArrayLike | None = None) -> tuple[float, float]:
    """Sky level and rms of the blank sky.

    The rms is the clipped scatter of blank pixels about the mean of the blank ones in a box around each, so that the
    wings of a galaxy that fills the cutout leave it within some per cent, and noise correlated over a few pixels
    stays in. Without `blank`, those are the fainter half of the image away from anything 3 sigma above its
    surroundings, and the sky is the clipped median away from anything 3 sigma above the sky. Wings raise the sky
    where they reach everywhere: no cutout can tell them from it.

    Parameters
    ----------
    image : (H, W), any flux unit.
    usable : (H, W) bool.
    blank : (H, W) bool, pixels known to be blank sky, such as the background class of a segmentation; sky and rms are
        then theirs.

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
    filled = np.where(ok, pixels, np.median(pixels[ok]))
    if blank is not None:
        return float(np.median(_clip(filled[ok]))), _scatter(filled, ok, ok)
    level = ndimage.uniform_filter(filled, _BOX)
    faint = ok & (level <= np.median(level[ok]))
    first = _deviation(_clip((filled - level)[faint]))
    smooth = ndimage.gaussian_filter(filled, _GAUSS)
    calm = ok & (smooth - level < 3 * first * _SMOOTHED)
    rms = _scatter(filled, calm, faint & calm)
    return _sky(filled, smooth, ok, rms), rms


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


def _scatter(filled: NDArray[np.float64], calm: NDArray[np.bool_], where: NDArray[np.bool_]) -> float:
    """Clipped scatter of the pixels `where` about the mean of the `calm` ones in the box around each."""
    fraction = ndimage.uniform_filter(calm.astype(np.float64), _BOX)
    where = where & (fraction > 0.2)
    if where.sum() < _FEWEST:
        return _deviation(_clip(filled[calm]))
    level = ndimage.uniform_filter(np.where(calm, filled, 0.0), _BOX)[where] / fraction[where]
    # The mean of n pixels holds 1 / n of the pixel that it is taken from.
    return _deviation(_clip((filled[where] - level) / np.sqrt(1 - 1 / (fraction[where] * _BOX**2))))


def _sky(filled: NDArray[np.float64], smooth: NDArray[np.float64], ok: NDArray[np.bool_], rms: float) -> float:
    blank, sky = ok, float(np.median(_clip(filled[ok])))
    white = rms * _SMOOTHED
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
