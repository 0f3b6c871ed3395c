"""From arrays as they came to a `Cutout` that the rest can rely on: checked, masked, mended, each mend noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lenspipe.errors import CandidateError, Reason
from lenspipe.io.survey import NoiseKind
from lenspipe.types import Cutout

MASKED_SIGMA = 1e8
"""From here on a sigma is a mark for a pixel that must not be used."""
_SPARSE = 4
"""Every so many rows tell a noise map of another kind."""
SigmaMap = Callable[[Any, Any, float, float], tuple[NDArray[np.float64], float, float]]
"""``lenspipe.infer.noise.sigma_map``: given by the caller, because files do not know of science."""


def _unknown() -> NDArray[np.float64]:
    return np.array(np.nan)


@dataclass
class Raw:
    """What was read of one candidate. Arrays per band broadcast from one number; NaN = unknown.

    Attributes
    ----------
    where : names file and row in messages.
    image : (B, H, W). noise, bad : (H, W) or (B, H, W); `bad` is True where a pixel must not be used.
    psf : one (h, w) image per band.
    psf_fwhm : (B,) arcsec, used where `psf` is empty: of a Gaussian, or of a Moffat where `psf_beta` (B,) is known.
    background_rms, exposure_time : (B,), used without `noise`.
    blank : edges of one exact value hold no data, as they do in cutouts from the border of a tile.
    zero_point, cd, ra, dec, unit, pixel_scale : as in `Cutout`.
    """

    id: str
    where: str
    bands: tuple[str, ...]
    image: NDArray[Any]
    pixel_scale: float
    noise: NDArray[Any] | None = None
    noise_kind: NoiseKind = "sigma"
    bad: NDArray[Any] | None = None
    psf: list[NDArray[Any]] = field(default_factory=list)
    psf_fwhm: NDArray[np.float64] = field(default_factory=_unknown)
    psf_beta: NDArray[np.float64] = field(default_factory=_unknown)
    background_rms: NDArray[np.float64] = field(default_factory=_unknown)
    exposure_time: NDArray[np.float64] = field(default_factory=_unknown)
    zero_point: NDArray[np.float64] = field(default_factory=_unknown)
    cd: NDArray[np.float64] | None = None
    ra: float = np.nan
    dec: float = np.nan
    unit: str = ""
    blank: bool = True
    notes: list[str] = field(default_factory=list)


def cutout(raw: Raw, sigma_map: SigmaMap) -> Cutout:
    """`raw` as a `Cutout`, or `CandidateError`."""
    n_bands, notes = len(raw.bands), list(raw.notes)
    if raw.image.ndim != 3 or raw.image.shape[0] != n_bands:
        raise CandidateError(
            Reason.BAND_MISSING if raw.image.ndim == 3 and raw.image.shape[0] < n_bands else Reason.SHAPE_MISMATCH,
            f"{raw.where}: the image has shape {raw.image.shape}, the bands are {', '.join(raw.bands)}.",
        )
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and is masked
        image = raw.image.astype(np.float32)
    valid = np.isfinite(image)
    if raw.bad is not None:
        valid &= _like(~(np.nan_to_num(raw.bad) != 0), image, "mask", raw.where)
    for b, band in enumerate(raw.bands):
        if not valid[b].any():
            raise CandidateError(Reason.BAND_UNUSABLE, f"{raw.where}: band {band} has no usable pixel.")
        usable = image[b][valid[b]]
        if (usable == usable[0]).all():
            raise CandidateError(
                Reason.IMAGE_CONSTANT, f"{raw.where}: every usable pixel of band {band} is {usable[0]:g}."
            )
        if raw.blank and ((blank := blank_edges(image[b])) & valid[b]).any():
            notes.append(f"band {band}: {int((blank & valid[b]).sum())} pixels of a blank edge masked")
            valid[b] &= ~blank
    if lost := int((~np.isfinite(image)).sum()):
        notes.append(f"{lost} pixels are not finite: masked and set to 0")
        image = np.where(np.isfinite(image), image, np.float32(0))

    exposure_time = _per_band(raw.exposure_time, n_bands)
    background_rms = _per_band(raw.background_rms, n_bands)
    if raw.noise is not None:
        sigma = sigma_of(_like(raw.noise, image, "noise map", raw.where), raw.noise_kind)
        if raw.noise_kind == "weight":
            notes.append("weight map taken as inverse variance")
        measured, background_rms = False, np.full(n_bands, np.nan)
    else:
        measured = not np.isfinite(background_rms).all()
        sigma = np.empty(image.shape, dtype=np.float64)
        for b in range(n_bands):
            sigma[b], _, background_rms[b] = sigma_map(
                image[b], valid[b], float(background_rms[b]), float(exposure_time[b])
            )
        if not np.isfinite(exposure_time).all():
            notes.append("exposure time unknown: sigma holds no photon noise of the objects")
    sigma32 = np.where((sigma > 0) & (sigma < MASKED_SIGMA), sigma, np.nan).astype(np.float32)
    known = np.isfinite(sigma32) & (sigma32 > 0)
    for b, band in enumerate(raw.bands):
        if not known[b].any():
            raise CandidateError(
                Reason.NOISE_INVALID, f"{raw.where}: no pixel of band {band} has 0 < sigma < {MASKED_SIGMA:.0e}."
            )
        valid[b] &= known[b]
        if not known[b].all():
            sigma32[b][~known[b]] = np.median(sigma32[b][known[b]])
        if valid[b].mean() < 0.5:
            raise CandidateError(
                Reason.BAND_UNUSABLE, f"{raw.where}: only {valid[b].mean():.0%} of band {band}'s pixels are usable."
            )
        if raw.noise is not None:
            notes.extend(_compare_noise(band, image[b], sigma32[b], valid[b]))

    psf, psf_fwhm = _psfs(raw, image.shape[1:], notes)
    return Cutout(
        id=raw.id,
        bands=raw.bands,
        image=image,
        sigma=sigma32,
        valid=valid,
        psf=psf,
        psf_fwhm=psf_fwhm,
        pixel_scale=raw.pixel_scale,
        background_rms=background_rms,
        exposure_time=exposure_time,
        zero_point=_per_band(raw.zero_point, n_bands),
        cd=raw.cd,
        ra=raw.ra,
        dec=raw.dec,
        unit=raw.unit,
        sigma_measured=measured,
        notes=tuple(notes),
    )


def sigma_of(noise: NDArray[Any], kind: NoiseKind) -> NDArray[np.float64]:
    """`noise` of any kind as sigma; NaN where it says nothing (not finite, zero or negative)."""
    values = noise.astype(np.float64)
    sigma = np.full(values.shape, np.nan)
    good = np.isfinite(values) & (values > 0)
    power = {"sigma": 1.0, "variance": 0.5, "weight": -0.5, "inverse_variance": -0.5}[kind]
    sigma[good] = values[good] ** power
    return sigma


def blank_edges(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(H, W) True on areas of one exact value that touch the border and hold at least as many pixels as a side."""
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    blank = np.zeros(image.shape, dtype=bool)
    if not (border[1:] == border[:-1]).any():
        return blank
    values, counts = np.unique(border[np.isfinite(border)], return_counts=True)
    for value in values[counts >= 5]:
        labels, _ = ndimage.label(image == value)
        for label, size in enumerate(np.bincount(labels.ravel())[1:], start=1):
            edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
            if size >= max(image.shape) and (edge == label).any():
                blank |= labels == label
    return blank


def odd(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """`psf` on an odd grid with its centre on the central pixel.

    An axis of even length has its centre on pixel N/2 or N/2 - 1 (then the far row goes) or between the two (then the
    PSF is resampled half a pixel off, by cubic spline); the centroid tells which.
    """
    for axis in (0, 1):
        size = psf.shape[axis]
        if size % 2:
            continue
        profile = psf.sum(axis=1 - axis)
        centroid = float(profile @ np.arange(size) / profile.sum())
        keep = [slice(None), slice(None)]
        offset = round(2 * (centroid - (size - 1) / 2))
        if offset == 0:
            shift = [0.0, 0.0]
            shift[axis] = -0.5
            psf = ndimage.shift(psf, shift, order=3, mode="constant")
        keep[axis] = slice(1, None) if offset > 0 else slice(None, -1)
        psf = psf[tuple(keep)]
    return psf


def gaussian(fwhm: float, largest: int) -> NDArray[np.float64]:
    """Gaussian of `fwhm` pixels sampled at pixel centres out to 4 sigma, at most `largest` on a side; sums to 1."""
    sigma = fwhm / np.sqrt(8 * np.log(2))
    radius = min(max(int(4 * sigma + 0.5), 1), (largest - 1) // 2)
    profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = np.outer(profile, profile)
    return np.asarray(kernel / kernel.sum())


def moffat(fwhm: float, beta: float, largest: int) -> NDArray[np.float64]:
    """Moffat (1969) PSF (1 + (r / alpha)^2)^-beta of `fwhm` pixels, sampled at pixel centres; sums to 1.

    It reaches out to the radius that holds 99.5 % of the flux, at most `largest` on a side. As with `gaussian`, fwhm
    is that of the effective PSF, the pixel included, so that its value at the centre of a pixel is the pixel's.
    """
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    # The flux beyond r is the fraction (1 + (r / alpha)^2)^(1 - beta).
    reach = alpha * np.sqrt(0.005 ** (1 / (1 - beta)) - 1)
    radius = int(min(max(np.ceil(reach), 1), (largest - 1) // 2))
    squared = np.arange(-radius, radius + 1) ** 2
    kernel = (1 + (squared[:, None] + squared) / alpha**2) ** -beta
    return np.asarray(kernel / kernel.sum())


def pad_to(psf: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Odd `psf` (..., h, w) in the middle of zeros of odd `shape`."""
    if psf.shape[-2:] == shape:
        return psf
    rows, columns = ((new - old) // 2 for new, old in zip(shape, psf.shape[-2:]))
    return np.pad(psf, [(0, 0)] * (psf.ndim - 2) + [(rows, rows), (columns, columns)])


def _like(data: NDArray[Any], image: NDArray[Any], what: str, where: str) -> NDArray[Any]:
    if data.shape not in (image.shape, image.shape[1:]):
        raise CandidateError(
            Reason.SHAPE_MISMATCH, f"{where}: the {what} has shape {data.shape}, the image {image.shape}."
        )
    return np.broadcast_to(data, image.shape)


def _per_band(values: NDArray[np.float64], n_bands: int) -> NDArray[np.float64]:
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (n_bands,)).copy()


def _compare_noise(
    band: str, image: NDArray[np.float32], sigma: NDArray[np.float32], valid: NDArray[np.bool_]
) -> list[str]:
    """A note where the map and the scatter of blank pixels are so far apart that the map may be of another kind.

    Resampled images scatter several times less from pixel to pixel than their maps rightly say. Most pixels are blank,
    so the median of the steps between neighbours is theirs.
    """
    some, good = image[::_SPARSE], valid[::_SPARSE]
    steps = np.abs(np.diff(some, axis=1))[good[:, 1:] & good[:, :-1]]
    rms = float(np.median(steps)) / (0.6745 * 2**0.5) if steps.size else 0.0
    ratio = float(np.quantile(sigma[::_SPARSE][good], 0.2)) / rms if rms > 0 else np.nan
    if 0.1 < ratio < 10 or np.isnan(ratio):
        return []
    return [f"band {band}: the noise map is {ratio:.3g} times the scatter of the blank pixels; check its kind and unit"]


def _psfs(raw: Raw, shape: tuple[int, ...], notes: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    n_bands = len(raw.bands)
    fwhm = np.full(n_bands, np.nan)
    if raw.psf:
        if len(raw.psf) not in (1, n_bands):
            raise CandidateError(Reason.SHAPE_MISMATCH, f"{raw.where}: {len(raw.psf)} PSF images for {n_bands} bands.")
        images = [_mend_psf(p, band, shape, raw.where, notes) for p, band in zip(raw.psf, raw.bands)]
        images *= n_bands // len(images)
    else:
        fwhm, betas = _per_band(raw.psf_fwhm, n_bands), _per_band(raw.psf_beta, n_bands)
        images = []
        for b, (band, arcsec, beta) in enumerate(zip(raw.bands, fwhm, betas)):
            if not (np.isfinite(arcsec) and arcsec > 0):
                raise CandidateError(
                    Reason.PSF_MISSING, f"{raw.where}: band {band} has no PSF image and no FWHM (got {arcsec})."
                )
            pixels = arcsec / raw.pixel_scale
            if 2 * pixels > min(shape):
                raise CandidateError(
                    Reason.PSF_TOO_LARGE,
                    f"{raw.where}: band {band} has a FWHM of {pixels:.1f} pixels in an image of {shape[0]}x{shape[1]}.",
                )
            if np.isfinite(beta):
                images.append(moffat(pixels, beta, min(shape)))
                fwhm[b] = np.nan  # an image is all that is known of a PSF that is no Gaussian
            else:
                images.append(gaussian(pixels, min(shape)))
    common = max(p.shape[0] for p in images), max(p.shape[1] for p in images)
    return np.stack([pad_to(p, common) for p in images]).astype(np.float32), fwhm


def _mend_psf(
    psf: NDArray[Any], band: str, shape: tuple[int, ...], where: str, notes: list[str]
) -> NDArray[np.float64]:
    psf = np.asarray(psf, dtype=np.float64)
    if psf.ndim != 2:
        raise CandidateError(Reason.SHAPE_MISMATCH, f"{where}: the PSF of band {band} has shape {psf.shape}.")
    if psf.shape[0] > shape[0] or psf.shape[1] > shape[1]:
        raise CandidateError(
            Reason.PSF_TOO_LARGE,
            f"{where}: the PSF of band {band} has shape {psf.shape}, the image only {tuple(shape)}.",
        )
    total = float(psf.sum())
    if not abs(total - 1) <= 0.1:
        raise CandidateError(Reason.PSF_NOT_NORMALISED, f"{where}: the PSF of band {band} sums to {total:.4g}.")
    if abs(total - 1) > 1e-4:
        notes.append(f"band {band}: PSF summed to {total:.4f}, renormalised")
    if psf.shape[0] % 2 == 0 or psf.shape[1] % 2 == 0:
        notes.append(f"band {band}: PSF of even size {psf.shape[0]}x{psf.shape[1]} moved onto an odd grid")
        psf = odd(psf)
    return psf / psf.sum()
