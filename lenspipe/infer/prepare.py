"""From a cutout and its masks to the numbers the likelihood reads. Masks choose pixels here, never priors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label

from lenspipe.errors import CandidateError, Reason
from lenspipe.infer.config import DataConfig
from lenspipe.infer.likelihood import Imaging
from lenspipe.types import Cutout, Estimate, Masks

_SMALLEST_ARC = 5
"""Pixels; what is smaller cannot mislead a fit."""


@dataclass(frozen=True)
class Prepared:
    """What the fit works on.

    Attributes
    ----------
    imaging : for the likelihood.
    source, lens : (H,W) class probabilities on its grid, None without masks.
    others : (H,W) pixels of other objects, left out of ``imaging.mask``.
    centre : x, y of the lens, arcsec.
    origin : the window's first (row, column) in the cutout.
    estimate : what a network says of the deflector, where starts are drawn from it; else None.
    """

    imaging: Imaging
    source: NDArray[np.float32] | None
    lens: NDArray[np.float32] | None
    others: NDArray[np.bool_]
    centre: tuple[float, float]
    origin: tuple[int, int]
    estimate: Estimate | None = None

    def arcs_left_out(self) -> Iterator[tuple[tuple[float, float], Prepared]]:
        """Where there are several segmented arcs: the x, y (arcsec) of each, and this without its pixels."""
        if self.source is None:
            return
        blobs, count = label(self.source > 0.5, structure=np.ones((3, 3)))
        sizes = np.bincount(blobs.ravel())
        large = [i for i in range(1, count + 1) if sizes[i] >= _SMALLEST_ARC]
        if len(large) < 2:
            return
        height, width = self.imaging.shape
        scale = self.imaging.pixel_scale
        for i in large:
            row, column = np.argwhere(blobs == i).mean(0)
            left_out = binary_dilation(blobs == i, iterations=2)
            yield ((column - (width - 1) / 2) * scale, (row - (height - 1) / 2) * scale), self.without(left_out)

    def without_core(self, centre: tuple[float, float], radius: float) -> Prepared:
        """This without the pixels nearer than `radius` to `centre`, arcsec: no model of the light is right there."""
        if not radius:
            return self
        core = self.imaging.distance(centre) < radius
        return replace(self, imaging=replace(self.imaging, mask=self.imaging.mask & ~core))

    def without(self, pixels: NDArray[np.bool_]) -> Prepared:
        """This with (H,W) `pixels` among those of other objects."""
        imaging = replace(self.imaging, mask=self.imaging.mask & ~pixels)
        source = None if self.source is None else np.where(pixels, 0, self.source)
        return replace(self, imaging=imaging, source=source, others=self.others | pixels)


def prepare(cutout: Cutout, masks: Masks | None, config: DataConfig, estimate: Estimate | None = None) -> Prepared:
    """Cut the window out, mask what does not count, find the lens.

    Raises
    ------
    CandidateError : where masks exist but show no lens, or where no pixel is left.
    """
    side = config.window or default_window(cutout, masks)
    rows, columns = (_window(n, cutout.pixel_scale, side) for n in cutout.shape)
    window = np.s_[..., rows, columns]
    image, sigma, mask = cutout.image[window], cutout.sigma[window], cutout.valid[window].copy()
    height, width = image.shape[1:]
    x = (np.arange(width) - (width - 1) / 2) * cutout.pixel_scale
    y = ((np.arange(height) - (height - 1) / 2) * cutout.pixel_scale)[:, None]
    probabilities = None if masks is None else masks.probability[window]
    source = lens = None
    others = np.zeros((height, width), dtype=bool)
    centre = (0.0, 0.0)
    if masks is not None and probabilities is not None:
        source, lens, other, _ = probabilities
        others = other > config.noise_probability
        if config.grow:
            # A mask that grows must not eat the arc it grows towards.
            grown = binary_dilation(others, iterations=config.grow)
            others |= grown & (source < 0.5) & (lens < 0.5)
        mask &= ~others
        weight = np.where(lens > 0.5, lens, 0.0)
        if weight.sum() < 4:
            raise CandidateError(Reason.NO_LENS_FOUND, f"{cutout.id}: {masks.origin} shows no lens galaxy.")
        centre = (float((weight * x).sum() / weight.sum()), float((weight * y).sum() / weight.sum()))
    distance = np.hypot(x - centre[0], y - centre[1])
    if config.radius is not None:
        mask &= distance < config.radius
    if not mask.any((1, 2)).all():
        raise CandidateError(Reason.BAND_UNUSABLE, f"{cutout.id}: no pixel is left to fit in some band.")
    poisson = bool(np.isfinite(cutout.background_rms).all() and np.isfinite(cutout.exposure_time).all())
    gaussian = bool(np.isfinite(cutout.psf_fwhm).all())
    imaging = Imaging(
        image=np.where(cutout.valid[window], image, 0).astype(np.float64),
        mask=mask,
        pixel_scale=cutout.pixel_scale,
        sigma=None if poisson else sigma.astype(np.float64),
        background_rms=cutout.background_rms if poisson else None,
        exposure_time=cutout.exposure_time if poisson else None,
        psf=None if gaussian else _central(cutout.psf, (height, width)),
        psf_fwhm=cutout.psf_fwhm if gaussian else None,
    )
    return Prepared(imaging, source, lens, others, centre, (rows.start, columns.start), estimate)


def with_light_error(imaging: Imaging, light: NDArray[np.float64], fraction: float) -> Imaging:
    """`imaging` with ``fraction * light`` (B,H,W) added to sigma in quadrature, as a fixed noise map."""
    if imaging.sigma is not None:
        variance = imaging.sigma**2
    else:
        assert imaging.background_rms is not None and imaging.exposure_time is not None
        flux = np.clip(imaging.image, 0, None)
        variance = imaging.background_rms[:, None, None] ** 2 + flux / imaging.exposure_time[:, None, None]
    total = np.sqrt(variance + (fraction * np.clip(light, 0, None)) ** 2)
    return replace(imaging, sigma=total, background_rms=None, exposure_time=None)


def with_noise_of(imaging: Imaging, model: NDArray[np.float64]) -> Imaging:
    """`imaging` with the variance that a `model` (B,H,W) implies, as a fixed noise map."""
    assert imaging.background_rms is not None and imaging.exposure_time is not None
    photons = np.clip(model, 0, None) / imaging.exposure_time[:, None, None]
    sigma = np.sqrt(imaging.background_rms[:, None, None] ** 2 + photons)
    return replace(imaging, sigma=sigma, background_rms=None, exposure_time=None)


def seeing(cutout: Cutout) -> float:
    """FWHM of the broadest band's PSF, arcsec; of a PSF image that of the circle as large as its upper half."""
    scale = cutout.pixel_scale
    circles = [2 * float(np.sqrt((k > k.max() / 2).sum() / np.pi)) * scale for k in cutout.psf]
    return max(float(f) if np.isfinite(f) else c for f, c in zip(cutout.psf_fwhm, circles))


def default_window(cutout: Cutout, masks: Masks | None) -> float:
    """Arcsec: room for a galaxy-scale lens at the image's resolution, and for all of the segmented arc."""
    side = max(6.0, 25 * seeing(cutout))
    if masks is not None and (masks.of("source") > 0.5).any():
        rows, columns = np.nonzero(masks.of("source") > 0.5)
        height, width = cutout.shape
        offset = np.maximum(np.abs(rows - (height - 1) / 2), np.abs(columns - (width - 1) / 2))
        # Nine tenths of it: a neighbour taken for a source must not open the window to its full width.
        side = max(side, 2.6 * float(np.percentile(offset, 90)) * cutout.pixel_scale)
    return side


def _window(size: int, pixel_scale: float, window: float) -> slice:
    """A centred slice with the parity of `size`, so that the origin stays where it was."""
    margin = max((size - round(window / pixel_scale)) // 2, 0)
    return slice(margin, size - margin)


def _central(psf: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float64]:
    """The PSF no larger than the image, cut about its centre."""
    kernel = psf.astype(np.float64)
    for axis, n in zip((1, 2), shape):
        excess = max(kernel.shape[axis] - (n - 1 + n % 2), 0)
        margin = (excess + 1) // 2
        kernel = np.take(kernel, np.arange(margin, kernel.shape[axis] - margin), axis)
    return np.asarray(kernel / kernel.sum((1, 2), keepdims=True))
