"""One candidate in its own files: image, noise and PSF, or one multi-extension file such as Euclid's cutouts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import CandidateError, Reason
from lenspipe.io import fits
from lenspipe.io.mend import Raw, SigmaMap, cutout
from lenspipe.io.survey import NoiseKind, SurveyFacts
from lenspipe.types import Cutout, check_id

_ROLES: dict[str, tuple[str, NoiseKind]] = {
    "FLUX": ("image", "sigma"),
    "SCI": ("image", "sigma"),
    "IMAGE": ("image", "sigma"),
    "PSF": ("psf", "sigma"),
    "RMS": ("noise", "sigma"),
    "SIGMA": ("noise", "sigma"),
    "NOISE": ("noise", "sigma"),
    "VAR": ("noise", "variance"),
    "IVAR": ("noise", "inverse_variance"),
    "WHT": ("noise", "weight"),
    "WEIGHT": ("noise", "weight"),
    "MASK": ("mask", "sigma"),
}
"""What BAND_ROLE in an extension's name means, and the kind of noise it says."""
_ZERO_POINTS = ("MAGZERO", "MAGZPT", "ZEROPT")


@dataclass
class _Planes:
    """Images per band, with the header that belongs to each."""

    bands: tuple[str, ...]
    images: list[NDArray[Any]]
    headers: list[Any]
    noise: list[NDArray[Any]] = field(default_factory=list)
    noise_kind: NoiseKind = "sigma"
    psf: list[NDArray[Any]] = field(default_factory=list)
    bad: list[NDArray[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_candidate(
    image: Path,
    noise: Path | None = None,
    psf: Path | None = None,
    *,
    survey: SurveyFacts,
    sigma_map: SigmaMap,
    mask: Path | None = None,
    noise_kind: NoiseKind = "sigma",
    id: str | None = None,
) -> Cutout:
    """Read one candidate.

    Parameters
    ----------
    image : FITS, (H, W) or (B, H, W), or one file with extensions BAND_FLUX (or _SCI, _IMAGE), BAND_PSF and BAND_RMS
        (or _VAR, _IVAR, _WHT, _MASK).
    noise, psf, mask : FITS of the same form, one plane for all bands or one each; a pixel whose `mask` is not zero is
        left out. They win over extensions of `image`.
    survey : what the headers do not say.
    sigma_map : `lenspipe.infer.noise.sigma_map`; used where there is no noise map.
    noise_kind : what `noise` holds.
    id : default: the file's name without its suffixes.

    Raises
    ------
    CandidateError : the files cannot be used, or the pixel scale is neither stated nor in the header.
    """
    where = str(image)
    name = check_id(fits.stem(image) if id is None else id, where)
    with fits.opened(image) as (hdus, notes):
        planes = _extensions(hdus, survey, where) or _stack(hdus, survey, where)
        planes.notes = notes + planes.notes
        # The file is mapped: take the pixels before it closes.
        planes.images = [np.array(plane) for plane in planes.images]
        planes.noise, planes.psf = [np.array(p) for p in planes.noise], [np.array(p) for p in planes.psf]
        planes.bad = [np.array(p) for p in planes.bad]
    if noise is not None:
        planes.noise, planes.noise_kind = _read_planes(noise, planes.notes), noise_kind
    if psf is not None:
        planes.psf = _read_planes(psf, planes.notes)
    if mask is not None:
        planes.bad = _read_planes(mask, planes.notes)
    return cutout(_raw(name, where, planes, survey), sigma_map)


def sky_facts(
    header: Any, shape: tuple[int, int], survey: SurveyFacts, where: str
) -> tuple[float, NDArray[np.float64] | None, float, float, list[str]]:
    """Pixel scale in arcsec, CD matrix or None, RA, Dec, and notes, of what is stated and what the header says."""
    position = fits.sky_position(header, shape)
    cd, ra, dec = position if position is not None else (None, np.nan, np.nan)
    scale, notes = survey.pixel_scale, []
    if cd is not None:
        # Five digits: cutouts of one survey are to share one scale wherever they lie on their tile.
        from_header = float(f"{3600 * np.sqrt(abs(np.linalg.det(cd))):.5g}")
        if scale is None:
            scale = from_header
        elif abs(from_header / scale - 1) > 0.01:
            notes.append(f"the header's pixel scale is {from_header:.4g} arcsec, the stated {scale:.4g} is used")
    elif scale is None and isinstance(header.get("PIXSCALE"), int | float):
        scale = float(header["PIXSCALE"])
    if scale is None:
        raise CandidateError(
            Reason.PIXEL_SCALE_UNKNOWN,
            f"{where}: no WCS in the header, so the pixel scale (arcsec per pixel) must be stated.",
        )
    if survey.orientation == "unknown":
        cd = None
    elif survey.orientation == "north-up-east-left":
        stated = np.diag([-scale, scale]) / 3600
        if cd is None:
            cd = stated
        elif np.abs(cd - stated).max() > 0.01 * scale / 3600:
            notes.append("the header's WCS is not north up, east left as stated; the header's is used")
    return scale, cd, ra, dec, notes


def header_zero_point(header: Any) -> float:
    """AB magnitude of one flux unit, NaN where the header does not say."""
    return float(next((header[key] for key in _ZERO_POINTS if isinstance(header.get(key), int | float)), np.nan))


def header_band(header: Any) -> str:
    """First word of the header's BAND or FILTER, empty where it has none."""
    words = str(header.get("BAND") or header.get("FILTER") or "").split()
    return words[0] if words else ""


def band_note(header: Any, band: str, where: str) -> list[str]:
    """A note where the header names another band than the one it is used as."""
    said = header_band(header)
    return [f"{where}: the header says band {said}; used as {band}"] if said and said.lower() != band.lower() else []


def _extensions(hdus: Any, survey: SurveyFacts, where: str) -> _Planes | None:
    """Planes of BAND_ROLE extensions; None where the file has none."""
    found: dict[str, dict[str, tuple[Any, NoiseKind]]] = {}
    for hdu in hdus:
        match = re.fullmatch(r"(.+)_([A-Z]+)", hdu.name.upper())
        if match and match[2] in _ROLES and fits.is_image(hdu):
            role, kind = _ROLES[match[2]]
            found.setdefault(match[1], {})[role] = (hdu, kind)
    if not any("image" in roles for roles in found.values()):
        return None
    bands = survey.bands or tuple(band for band, roles in found.items() if "image" in roles)
    planes = _Planes(bands, [], [])
    for band in bands:
        roles = found.get(band.upper(), {})
        if "image" not in roles:
            raise CandidateError(Reason.BAND_MISSING, f"{where}: no extension holds the image of band {band}.")
        planes.images.append(fits.image_data(roles["image"][0], f"{where}, {band}"))
        planes.headers.append(roles["image"][0].header)
        for role, target in (("noise", planes.noise), ("psf", planes.psf), ("mask", planes.bad)):
            if role in roles:
                target.append(fits.image_data(roles[role][0], f"{where}, {band}"))
        if "noise" in roles:
            planes.noise_kind = roles["noise"][1]
    for what, each in (("noise", planes.noise), ("PSF", planes.psf), ("mask", planes.bad)):
        if each and len(each) != len(bands):
            raise CandidateError(Reason.BAND_MISSING, f"{where}: the {what} of a band is missing.")
    return planes


def _stack(hdus: Any, survey: SurveyFacts, where: str) -> _Planes:
    """Planes of the file's first image."""
    hdu = next((hdu for hdu in hdus if fits.is_image(hdu)), None)
    if hdu is None:
        raise CandidateError(Reason.LAYOUT_UNKNOWN, f"{where}: the file holds no image.")
    data = fits.image_data(hdu, where)
    if data.ndim not in (2, 3):
        raise CandidateError(Reason.SHAPE_MISMATCH, f"{where}: one candidate's image cannot have shape {data.shape}.")
    images = list(data) if data.ndim == 3 else [data]
    default = (
        (header_band(hdu.header) or "image",) if len(images) == 1 else [f"band{b + 1}" for b in range(len(images))]
    )
    bands = survey.bands or tuple(default)
    notes = band_note(hdu.header, bands[0], where) if len(bands) == 1 else []
    return _Planes(bands, images, [hdu.header], notes=notes)


def _read_planes(path: Path, notes: list[str]) -> list[NDArray[Any]]:
    with fits.opened(path) as (hdus, found):
        notes.extend(f"{path.name}: {note}" for note in found)
        data = _stack(hdus, SurveyFacts(), str(path)).images
        return [np.array(plane) for plane in data]


def _raw(name: str, where: str, planes: _Planes, survey: SurveyFacts) -> Raw:
    bands, notes = planes.bands, planes.notes
    shapes = {plane.shape for plane in planes.images}
    if len(shapes) > 1:
        raise CandidateError(Reason.SHAPE_MISMATCH, f"{where}: the bands have different shapes {sorted(shapes)}.")
    image, header = np.stack(planes.images), planes.headers[0]
    scale, cd, ra, dec, more = sky_facts(header, image.shape[1:], survey, where)
    zero_point = survey.per_band("zero_point", bands)
    for b, head in enumerate(planes.headers if len(planes.headers) == len(bands) else [header] * len(bands)):
        zero_point[b] = header_zero_point(head) if np.isnan(zero_point[b]) else zero_point[b]
    unit = str(header.get("BUNIT", "")).strip()
    if unit and survey.unit and unit != survey.unit:
        more.append(f"the header's unit is {unit}, the stated {survey.unit} is used")
    return Raw(
        id=name,
        where=where,
        bands=bands,
        image=image,
        pixel_scale=scale,
        noise=_merge(planes.noise, "noise map", where),
        noise_kind=planes.noise_kind,
        bad=_merge(planes.bad, "mask", where),
        psf=planes.psf,
        psf_fwhm=survey.per_band("psf_fwhm", bands),
        psf_beta=survey.per_band("psf_beta", bands),
        background_rms=survey.per_band("background_rms", bands),
        exposure_time=survey.per_band("exposure_time", bands),
        zero_point=zero_point,
        cd=cd,
        ra=ra,
        dec=dec,
        unit=survey.unit or unit,
        notes=notes + more,
    )


def _merge(planes: list[NDArray[Any]], what: str, where: str) -> NDArray[Any] | None:
    """One plane as it is, several stacked."""
    if not planes:
        return None
    if len({plane.shape for plane in planes}) > 1:
        raise CandidateError(Reason.SHAPE_MISMATCH, f"{where}: the planes of the {what} have different shapes.")
    return planes[0] if len(planes) == 1 else np.stack(planes)
