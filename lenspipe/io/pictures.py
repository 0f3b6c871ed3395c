"""PNG pictures with a PNG mask each: data sets for segmentation that never were FITS files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import CandidateError, Reason
from lenspipe.io.candidate import sky_facts
from lenspipe.io.mend import Raw, SigmaMap, cutout
from lenspipe.io.survey import SurveyFacts
from lenspipe.types import CLASSES, Cutout, check_id

_ROUNDING = 12**-0.5
"""Standard deviation of what is lost by rounding to whole grey levels."""


@dataclass(frozen=True)
class Pairs:
    """Which mask belongs to a picture.

    Attributes
    ----------
    mask : path of the mask, relative to the picture's folder, ``{name}`` being the picture's name without its suffix;
        None where there are no masks.
    classes : grey value of a mask -> class.
    """

    mask: str | None = None
    classes: Mapping[int, str] = field(default_factory=lambda: {0: "background", 255: "source"})

    def of(self, picture: Path) -> Path:
        """The mask of `picture`."""
        assert self.mask is not None
        return Path(os.path.normpath(picture.parent / self.mask.format(name=picture.stem)))


def is_picture(path: Path) -> bool:
    """Whether the name says PNG."""
    return path.suffix.lower() == ".png"


def read_picture(path: Path, survey: SurveyFacts, sigma_map: SigmaMap) -> Cutout:
    """The picture as a `Cutout` in grey levels, top row first, as it is shown; the PSF is one pixel unless stated.

    A band for each of its colours; grey pictures saved in colour, three alike, are taken as one band where one is
    wanted. Black borders are data, unlike the blank edges of survey images.
    """
    where, notes = str(path), []
    planes = _pixels(path).astype(np.float32)
    wanted = len(survey.bands) or len(planes)
    if wanted == 1 and (planes == planes[0]).all():
        planes = planes[:1]
    bands = survey.bands or (("red", "green", "blue")[: len(planes)] if len(planes) > 1 else ("grey",))
    scale, cd, ra, dec, more = sky_facts({}, planes.shape[1:], survey, where)
    rms = survey.per_band("background_rms", bands)
    for b, plane in enumerate(planes[: len(bands)]):
        if np.isnan(rms[b]):
            measured = sigma_map(plane, np.ones(plane.shape, bool), np.nan, np.nan)[2]
            rms[b] = np.hypot(measured if np.isfinite(measured) else 0.0, _ROUNDING)
            notes.append(f"band {bands[b]}: noise measured, and the rounding to grey levels")
    fwhm = survey.per_band("psf_fwhm", bands)
    sharp = bool(np.isnan(fwhm).all())
    raw = Raw(
        id=check_id(path.stem, where),
        where=where,
        bands=bands,
        image=planes,
        pixel_scale=scale,
        cd=cd,
        ra=ra,
        dec=dec,
        unit=survey.unit,
        blank=False,
        background_rms=rms,
        exposure_time=survey.per_band("exposure_time", bands),
        zero_point=survey.per_band("zero_point", bands),
        psf=[np.ones((1, 1))] if sharp else [],
        psf_fwhm=fwhm,
        psf_beta=survey.per_band("psf_beta", bands),
        notes=notes + more + (["no PSF is stated: one pixel"] if sharp else []),
    )
    return cutout(raw, sigma_map)


def read_mask(picture: Path, pairs: Pairs, shape: tuple[int, int]) -> NDArray[np.uint8] | None:
    """(H, W) class numbers of a picture of this shape, None where `pairs` knows of no masks."""
    if pairs.mask is None:
        return None
    path = pairs.of(picture)
    mask = _pixels(path)
    if len(mask) > 1 and (mask != mask[0]).any():
        raise CandidateError(Reason.LABEL_INVALID, f"{path}: a mask in colours; its classes must be grey values.")
    if mask.shape[1:] != shape:
        raise CandidateError(
            Reason.SHAPE_MISMATCH, f"{path}: the mask has shape {mask.shape[1:]}, its picture {shape}."
        )
    label = np.full(shape, len(CLASSES), np.uint8)
    for value, name in pairs.classes.items():
        label[mask[0] == value] = CLASSES.index(name)
    if (unknown := mask[0][label == len(CLASSES)]).size:
        raise CandidateError(
            Reason.LABEL_INVALID,
            f"{path}: the grey value {unknown[0]} stands for no class; there are {sorted(pairs.classes)}.",
        )
    return label


def _pixels(path: Path) -> NDArray[np.generic]:
    """(planes, H, W); transparency is left aside."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            plain = {"LA": "L", "1": "L", "P": "RGB", "RGBA": "RGB"}.get(picture.mode)
            pixels = np.asarray(picture.convert(plain) if plain else picture)
    except FileNotFoundError:
        raise CandidateError(Reason.FILE_MISSING, f"{path}: there is no such file.") from None
    except UnidentifiedImageError:
        raise CandidateError(Reason.FILE_UNREADABLE, f"{path}: not a PNG picture.") from None
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises on a picture that is cut short
        raise CandidateError(Reason.FILE_TRUNCATED, f"{path}: cannot be read to its end ({error}).") from None
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
