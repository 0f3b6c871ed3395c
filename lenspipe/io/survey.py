"""What a survey's files do not say themselves, stated once in the workflow."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lenspipe.config import Config

PerBand = float | dict[str, float] | None
"""One number for all bands, or one for each, by name."""
NoiseKind = Literal["sigma", "variance", "weight", "inverse_variance"]
"""What a noise map holds; a ``weight`` map is taken as inverse variance."""


class SurveyFacts(Config):
    """What is stated here wins over headers; a header that disagrees is noted with the candidate."""

    bands: tuple[str, ...] = Field((), description="in the order of the planes; empty: as the file names them")
    pixel_scale: float | None = Field(None, gt=0, description="arcsec per pixel; null: from the header")
    zero_point: PerBand = Field(None, description="AB magnitude of one flux unit; null: from the header, or unknown")
    unit: str = Field("", description="flux unit of images and noise; empty: from the header, or unknown")
    exposure_time: PerBand = Field(
        None, description="effective gain: variance of the objects' photons = flux / exposure_time; null: unknown"
    )
    background_rms: PerBand = Field(
        None, description="noise of blank sky in the flux unit, sky subtracted; null: measured where no noise map comes"
    )
    psf_fwhm: PerBand = Field(
        None,
        description="arcsec, of a Gaussian PSF (see psf_beta); used where neither image nor column comes",
    )
    psf_beta: PerBand = Field(None, description="exponent of a Moffat PSF, above 1; null: the PSF is a Gaussian")
    orientation: Literal["north-up-east-left", "wcs", "unknown"] = Field(
        "wcs",
        description="wcs: from the header, unknown where it has none; north-up-east-left: for images without a WCS; "
        "unknown: not even from the header",
    )

    @model_validator(mode="after")
    def _bands_known(self) -> SurveyFacts:
        for name in ("zero_point", "exposure_time", "background_rms", "psf_fwhm", "psf_beta"):
            value = getattr(self, name)
            strange = sorted(set(value) - set(self.bands)) if isinstance(value, dict) and self.bands else []
            if strange:
                raise ValueError(f"{name} names the band {strange[0]!r}, which is not among bands {list(self.bands)}")
        betas = self.psf_beta.values() if isinstance(self.psf_beta, dict) else [self.psf_beta]
        if any(beta is not None and beta <= 1 for beta in betas):
            raise ValueError("psf_beta must be above 1: a Moffat profile has no finite flux otherwise")
        return self

    def per_band(self, name: str, bands: tuple[str, ...]) -> NDArray[np.float64]:
        """(B,) values of the field `name`, NaN where nothing is stated."""
        value = getattr(self, name)
        each = [value.get(band) if isinstance(value, dict) else value for band in bands]
        return np.array([np.nan if v is None else v for v in each], dtype=np.float64)
