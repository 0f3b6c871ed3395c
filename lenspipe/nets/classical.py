"""Segmentation without a trained network: the galaxy in the middle, what sticks out of it, and what lies around.

No part of it has learned anything: it serves surveys for which there are no weights, and says so by its origin.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from photutils.segmentation import detect_sources
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage, optimize

from lenspipe.types import CLASSES, Cutout

_SKY_SIGMA = 2.0
"""S/N, after smoothing, above which a pixel belongs to an object."""
_ARC_SIGMA = 2.5
"""S/N, after smoothing, by which an arc stands out of the galaxy."""
_ARC_RADII = (0.3, 4.0)
"""arcsec from the galaxy between which residuals may be arcs; the inner one is at least `_CORE` pixels."""
_CORE = 2.5
_GALAXY_ERROR = 0.05
"""Part of the galaxy's own brightness that its smooth model may miss in single pixels; 0.4 of it once smoothed."""
_SMOOTH = 0.08
"""arcsec, sigma of the Gaussian that images are smoothed with, at least 0.7 pixel."""
_MIN_AREA = 0.06
"""square arcsec of the smallest arc, at least 5 pixels."""
_ORDER = 3
"""Of the polynomial in r^(1/4) that is the logarithm of the galaxy's profile; 1 would be de Vaucouleurs'."""


def segment(cutout: Cutout) -> NDArray[np.float32]:
    """(C, H, W) f4 soft class probabilities, ordered as `lenspipe.types.CLASSES`.

    1. All bands are added with inverse-variance weights.
    2. The brightest object near the middle is modelled by concentric ellipses with a smooth profile, robustly; what
       stands out of it is left out and the model fitted again.
    3. After smoothing, what stands out between 0.3 and 4 arcsec from the galaxy is `source`; what its model lifts out
       of the sky is `lens`; what is detected elsewhere is `noise` (other objects); the rest is `background`.
    """
    snr, valid = _stack(cutout)
    sigma = max(0.7, _SMOOTH / cutout.pixel_scale)
    smooth = ndimage.gaussian_filter(snr, sigma)
    # White noise of unit variance after the smoothing; sky or neighbours may make it more.
    white = 1 / (2 * sigma * np.sqrt(np.pi))
    labels = _detect(smooth - _SKY_SIGMA * max(_lower_scatter(_frame(smooth)), white), 8)
    probability = np.zeros((len(CLASSES), *snr.shape))
    place = _peak(smooth, labels)
    core = max(_ARC_RADII[0], _CORE * cutout.pixel_scale)
    inner = round(core / cutout.pixel_scale)
    galaxy = np.zeros_like(snr) if place is None else _galaxy(snr, valid, place, sigma, inner)
    residual = ndimage.gaussian_filter(np.where(valid, snr - galaxy, 0), sigma)
    smooth_galaxy = ndimage.gaussian_filter(galaxy, sigma)
    noise = max(_lower_scatter(residual.ravel()), white)
    needed = _ARC_SIGMA * noise + 0.4 * _GALAXY_ERROR * smooth_galaxy
    bright = _detect(residual - needed, max(5, round(_MIN_AREA / cutout.pixel_scale**2)))
    stands_out = np.where(bright > 0, _step(residual, 0.8 * needed, noise), 0)
    arcs = np.zeros(snr.shape, dtype=bool)
    if place is not None:
        row, column = np.mgrid[: snr.shape[0], : snr.shape[1]]
        distance = np.hypot(row - place[0], column - place[1]) * cutout.pixel_scale
        reachable = (distance > core) & (distance < _ARC_RADII[1])
        for index in range(1, bright.max() + 1):
            part = bright == index
            # An object that lies to its larger part beyond the reach of arcs is a neighbour.
            if reachable[part].mean() > 0.5:
                arcs |= part & reachable
            elif distance[part].min() <= core:
                stands_out[part] = 0  # the core's own misfit
        stands_out[distance <= core] = 0
    probability[CLASSES.index("source")] = np.where(arcs, stands_out, 0)
    probability[CLASSES.index("noise")] = np.where(arcs, 0, stands_out)
    lens = _step(smooth_galaxy, _SKY_SIGMA * noise, noise) if place is not None else 0
    probability[CLASSES.index("lens")] = (1 - probability.sum(0)) * lens
    probability[CLASSES.index("background")] = 1 - probability.sum(0)
    return probability.astype(np.float32)


def _stack(cutout: Cutout) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(H, W) S/N of the bands' inverse-variance weighted sum, sky subtracted, and where it is known.

    The sky is the median of the outermost tenth, band by band; unknown pixels take the median of their surroundings.
    """
    weight = np.where(cutout.valid, 1 / np.square(cutout.sigma, dtype=np.float64), 0)
    total, valid = weight.sum(0), np.asarray(cutout.valid.any(0))
    image = np.where(cutout.valid, cutout.image, 0).astype(np.float64)
    for plane, used in zip(image, cutout.valid):
        frame = _frame(plane)[_frame(used)]
        plane -= np.median(frame) if frame.size else 0.0
    snr = (image * weight).sum(0) / np.sqrt(np.where(total > 0, total, 1))
    if not valid.all():
        snr = np.where(valid, snr, ndimage.median_filter(snr, 7))
    return snr, valid


def _frame(image: NDArray[Any]) -> NDArray[Any]:
    """The pixels of the outermost tenth."""
    edge = max(1, min(image.shape) // 10)
    inside = np.zeros(image.shape, dtype=bool)
    inside[edge:-edge, edge:-edge] = True
    return image[~inside]


def _lower_scatter(values: NDArray[np.float64]) -> float:
    """Sigma of the noise from what lies below the median: objects lie above."""
    return float(np.median(values) - np.percentile(values, 15.87))


def _detect(image: NDArray[np.float64], n_pixels: int) -> NDArray[np.int_]:
    """(H, W) number of the connected object of at least `n_pixels` above 0 that a pixel belongs to, or 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        found = detect_sources(image, 0.0, n_pixels)
    return np.zeros(image.shape, dtype=int) if found is None else np.asarray(found.data, dtype=int)


def _peak(smooth: NDArray[np.float64], labels: NDArray[np.int_]) -> tuple[float, float] | None:
    """Row and column of the brightest detected pixel within a twelfth of the image's size of the middle."""
    height, width = smooth.shape
    row, column = np.mgrid[:height, :width]
    near = np.hypot(row - (height - 1) / 2, column - (width - 1) / 2) <= min(height, width) / 12
    if not (near & (labels > 0)).any():
        return None
    peak = np.unravel_index(np.argmax(np.where(near & (labels > 0), smooth, -np.inf)), smooth.shape)
    return float(peak[0]), float(peak[1])


def _galaxy(
    snr: NDArray[np.float64], valid: NDArray[np.bool_], place: tuple[float, float], sigma: float, inner: int
) -> NDArray[np.float64]:
    """(H, W) smooth elliptical model of the galaxy at `place`, in the units of `snr`.

    Parameters
    ----------
    sigma : pixels, of the smoothing in which what stands out is looked for.
    inner : pixels, radius of the core, where the profile of the PSF rules.
    """
    row, column = np.mgrid[: snr.shape[0], : snr.shape[1]]
    y, x = row - place[0], column - place[1]
    size = float(max(snr.shape))

    def elliptical(p: NDArray[np.float64], use: NDArray[np.bool_]) -> NDArray[np.float64]:
        dx, dy, e1, e2 = x[use] - p[0], y[use] - p[1], p[2], p[3]
        u, v = (1 - e1) * dx - e2 * dy, (1 + e1) * dy - e2 * dx
        return np.asarray(np.sqrt((u * u + v * v) / (1 - e1 * e1 - e2 * e2)))

    def model(p: NDArray[np.float64], use: NDArray[np.bool_]) -> NDArray[np.float64]:
        step = _quarter_power(elliptical(p, use), size)
        return np.asarray(np.exp(np.clip(np.polynomial.polynomial.polyval(step, p[4:]), -20, 20)))

    radius = np.hypot(x, y)
    rings = np.arange(int(radius.max()))
    medians = np.asarray(ndimage.median(snr, np.round(radius).astype(int), rings))
    some = medians > 0.3
    if some.sum() <= _ORDER:
        return np.zeros_like(snr)
    steps = _quarter_power(rings[some], size)
    start = np.concatenate([np.zeros(4), np.polynomial.polynomial.polyfit(steps, np.log(medians[some]), _ORDER)])
    low = np.array([-2.0, -2.0, -0.5, -0.5] + [-np.inf] * (_ORDER + 1))
    use = valid.copy()
    for _ in range(3):
        # Far out there are many pixels and little to learn: a thinned set serves as well.
        thinned = use & ((radius < 0.15 * size) | ((row + column) % 3 == 0))
        scale = 1 + _GALAXY_ERROR * model(start, thinned)

        def misfit(
            p: NDArray[np.float64], thinned: NDArray[np.bool_] = thinned, scale: NDArray[np.float64] = scale
        ) -> NDArray[np.float64]:
            return np.asarray((model(p, thinned) - snr[thinned]) / scale)

        start = optimize.least_squares(misfit, start, bounds=(low, -low), loss="soft_l1", max_nfev=25, x_scale="jac").x
        residual = ndimage.gaussian_filter(snr - model(start, np.ones_like(use)).reshape(snr.shape), sigma)
        limit = 2.5 * _lower_scatter(residual.ravel())
        use = valid & ~ndimage.binary_dilation((residual > limit) & (radius > 3), iterations=2)
        if use.sum() < 0.3 * valid.sum():
            break
    smooth = model(start, np.ones_like(use)).reshape(snr.shape)
    residual = ndimage.gaussian_filter(snr - smooth, sigma)
    return smooth + _core(residual, elliptical(start, np.ones_like(use)).reshape(snr.shape), inner)


def _quarter_power(radius: NDArray[Any], size: float) -> NDArray[np.float64]:
    """(radius / size)^(1/4), softened by half a pixel: there the profile is that of the PSF."""
    return np.asarray(((np.square(radius, dtype=np.float64) + 0.25) / size**2) ** 0.125)


def _core(residual: NDArray[np.float64], radius: NDArray[np.float64], inner: int) -> NDArray[np.float64]:
    """(H, W) what a steep core differs by from its smooth model: the median of each elliptical ring of the residual,
    and beyond its highest ring of the `inner` ones only as far as it falls. A ring of arcs lies beyond, and stays."""
    rings = np.arange(int(radius.max()) + 1)
    medians = np.nan_to_num(np.asarray(ndimage.median(residual, np.round(radius).astype(int), rings)))
    peak = int(np.argmax(medians[: inner + 1]))
    medians[peak:] = np.minimum.accumulate(np.clip(medians[peak:], 0, None))
    return np.asarray(np.interp(radius, rings, medians))


def _step(value: NDArray[np.float64], threshold: NDArray[np.float64] | float, noise: float) -> NDArray[np.float64]:
    """From 0 to 1 around `threshold`, over about one sigma of the noise."""
    return np.asarray(1 / (1 + np.exp(-np.clip((value - threshold) / (0.6 * noise), -50, 50))))
