"""What a survey does to light: pixels, seeing, sky, and how many electrons stand behind a unit of flux."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lenspipe.config import Config, nearest


class Depth(Config):
    """A published depth and what it means."""

    magnitude: float = Field(description="AB")
    kind: Literal["point", "aperture"] = Field(
        description="point: total magnitude of a star, best weights; aperture: magnitude inside a round aperture"
    )
    sigmas: float = Field(5.0, gt=0, description="S/N at the depth")
    diameter: float | None = Field(None, gt=0, description="arcsec, of the aperture")

    @model_validator(mode="after")
    def _whole(self) -> Depth:
        if (self.kind == "aperture") != (self.diameter is not None):
            raise ValueError("diameter belongs to kind: aperture, and to that alone")
        return self


class Band(Config):
    """One filter of a coadd."""

    name: str = Field(description="as in the shards")
    wavelength: float = Field(gt=0, description="nm, effective; colours are read off at it")
    electron_zero_point: float = Field(description="AB magnitude that gives one electron per second")
    sky_brightness: float = Field(description="AB mag per square arcsec")
    psf_fwhm: float = Field(gt=0, description="arcsec, median over objects; of the effective PSF (pixel included)")
    psf_beta: float | None = Field(None, gt=1, description="exponent of a Moffat PSF; null: the PSF is a Gaussian")
    exposure_s: float | None = Field(None, gt=0, description="seconds of one exposure; null: the survey's")
    n_exposures: int | None = Field(None, ge=1, description="exposures in the coadd; null: the survey's")
    read_noise: float | None = Field(None, ge=0, description="electrons rms per pixel and exposure; null: the survey's")
    depth: Depth | None = Field(None, description="published; null: none known")


class Survey(Config):
    """Defaults: a DES-like coadd; depth comes out near DES Y6 (10 sigma in 2 arcsec: g 24.7, r 24.4, i 23.9)."""

    name: str = Field("des", description="stands in the model card of networks trained on it")
    bands: tuple[Band, ...] = Field(
        (
            Band(name="g", wavelength=481, electron_zero_point=26.6, sky_brightness=22.0, psf_fwhm=1.25),
            Band(name="r", wavelength=642, electron_zero_point=26.8, sky_brightness=21.1, psf_fwhm=0.9),
            Band(name="i", wavelength=781, electron_zero_point=26.7, sky_brightness=20.1, psf_fwhm=0.8),
        ),
        min_length=1,
        description="filters, blue to red",
    )
    pixel_scale: float = Field(0.2637, gt=0, description="arcsec per pixel")
    n_pixels: int = Field(45, ge=16, description="pixels on a side")
    zero_point: float = Field(30.0, description="AB magnitude of one flux unit of the coadd")
    exposure_s: float = Field(90.0, gt=0, description="seconds of one exposure, of bands that do not say it")
    n_exposures: int = Field(10, ge=1, description="exposures in the coadd, of bands that do not say it")
    read_noise: float = Field(7.0, ge=0, description="electrons rms per pixel and exposure, likewise")
    psf_scatter: float = Field(0.06, ge=0, description="relative scatter of the FWHM from object to object and band")
    sky_scatter: float = Field(0.05, ge=0, description="relative scatter of the sky rms from object to object")

    @model_validator(mode="after")
    def _distinct(self) -> Survey:
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError(f"a band is named twice among {list(names)}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)

    def effective_gain(self) -> NDArray[np.float64]:
        """(B,) electrons behind one flux unit: the `exposure_time` of lenstronomy, variance = flux / exposure_time.

        One unit is a source of magnitude `zero_point`, which gives ``10^(-0.4 (zero_point - electron_zero_point))``
        electrons a second; the coadd collects them in all its exposures. (Neither the 90 s of one exposure nor the
        900 s of all of them is the right number at a zero point of 30.)
        """
        per_second = 10 ** (-0.4 * (self.zero_point - self.per_band("electron_zero_point")))
        return np.asarray(per_second * self.per_band("exposure_s") * self.per_band("n_exposures"))

    def sky_rms(self) -> NDArray[np.float64]:
        """(B,) rms of a blank pixel in flux units: photon noise of the sky and read noise, each counted once."""
        brightness = self.per_band("electron_zero_point") - self.per_band("sky_brightness")
        sky = 10 ** (0.4 * brightness) * self.pixel_scale**2 * self.per_band("exposure_s")
        electrons = np.sqrt(self.per_band("n_exposures") * (sky + self.per_band("read_noise") ** 2))
        return np.asarray(electrons / self.effective_gain())

    def depths(self) -> NDArray[np.float64]:
        """(B,) AB mag by each band's definition, NaN without one; the noise is that of the sky alone.

        A star's is that of weights in proportion to the PSF (King 1983, PASP 95, 163).
        """
        noise = self.sky_rms() / self.pixel_scale
        return np.array([self._depth(band, float(rms)) for band, rms in zip(self.bands, noise)])

    def _depth(self, band: Band, noise: float) -> float:
        """`noise`: rms of a square arcsec of sky, flux units."""
        if band.depth is None:
            return math.nan
        across = band.depth.diameter
        area = _noise_area(band) if across is None else math.pi * across**2 / 4
        return self.zero_point - 2.5 * math.log10(band.depth.sigmas * noise * math.sqrt(area))

    def flux(self, magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
        """Flux units of AB magnitudes."""
        return np.asarray(10 ** (-0.4 * (magnitude - self.zero_point)))

    def per_band(self, name: str) -> NDArray[np.float64]:
        """(B,) values of the bands' field `name`; the survey's own where a band's is null, NaN where it has none."""
        whole = getattr(self, name, None)
        values = [whole if getattr(band, name) is None else getattr(band, name) for band in self.bands]
        return np.array(values, dtype=np.float64)


def _noise_area(band: Band) -> float:
    """1 / integral of PSF^2, square arcsec: the sky under a star, weighted by the PSF."""
    from lenspipe.lensing.psf import moffat_alpha

    if band.psf_beta is None:
        return math.pi * band.psf_fwhm**2 / (2 * math.log(2))
    beta = band.psf_beta
    return math.pi * moffat_alpha(band.psf_fwhm, beta) ** 2 * (2 * beta - 1) / (beta - 1) ** 2


class Cited(Config):
    """One number for all bands, or one for each by name, and where it comes from."""

    value: float | dict[str, float]
    source: str = Field(min_length=1, description="paper with section or table, handbook, or `chosen` and why")


class CitedDepth(Config):
    """Published depths of some bands; `kind`, `sigmas` and `diameter` as in `Depth`."""

    kind: str
    sigmas: float
    diameter: float | None = None
    value: dict[str, float] = Field(min_length=1, description="AB mag by band")
    source: str = Field(min_length=1)


_PER_BAND = (
    "wavelength",
    "electron_zero_point",
    "sky_brightness",
    "psf_fwhm",
    "psf_beta",
    "exposure_s",
    "n_exposures",
    "read_noise",
)
_WHOLE = ("pixel_scale", "zero_point", "psf_scatter", "sky_scatter")


class Preset(Config):
    """A survey as a file describes it: each number, or row of numbers by band, with its source. See `Survey`."""

    name: str
    summary: str = Field(description="one line")
    bands: tuple[str, ...] = Field(min_length=1, description="names, blue to red")
    n_pixels: int = Field(ge=16, description="pixels on a cutout's side")
    pixel_scale: Cited
    zero_point: Cited
    wavelength: Cited
    electron_zero_point: Cited
    sky_brightness: Cited
    psf_fwhm: Cited
    psf_beta: Cited | None = Field(None, description="of Moffat PSFs; left out: Gaussian PSFs")
    psf_scatter: Cited
    sky_scatter: Cited
    exposure_s: Cited
    n_exposures: Cited
    read_noise: Cited
    depth: tuple[CitedDepth, ...] = Field(min_length=1, description="a band without a published depth may be left out")

    @model_validator(mode="after")
    def _every_band(self) -> Preset:
        for name in _PER_BAND:
            cited = getattr(self, name)
            if cited is not None and isinstance(cited.value, dict):
                self._known(name, cited.value)
                missing = [band for band in self.bands if band not in cited.value]
                if missing:
                    raise ValueError(f"{name} has no value for the band {missing[0]!r}")
        for depth in self.depth:
            self._known("depth", depth.value)
        for name in _WHOLE:
            if isinstance(getattr(self, name).value, dict):
                raise ValueError(f"{name} is one number for all bands")
        return self

    def _known(self, name: str, value: dict[str, float]) -> None:
        for band in value:
            if band not in self.bands:
                raise ValueError(f"{name} names the band {band!r}, which is not among bands {list(self.bands)}")

    def survey(self, bands: tuple[str, ...] = ()) -> Survey:
        """The `Survey`, of all its bands or of those named; ValueError names one that it does not have."""
        for band in bands:
            if band not in self.bands:
                raise ValueError(f"the survey {self.name} has no band {band!r}{nearest(band, list(self.bands))}")
        return Survey.model_validate(
            {
                "name": self.name,
                "bands": [self._band(name) for name in bands or self.bands],
                "n_pixels": self.n_pixels,
                **{name: getattr(self, name).value for name in _WHOLE},
            }
        )

    def _band(self, name: str) -> dict[str, Any]:
        cited = {key: value for key in _PER_BAND if (value := getattr(self, key)) is not None}
        facts = {key: c.value[name] if isinstance(c.value, dict) else c.value for key, c in cited.items()}
        depth = next((d for d in self.depth if name in d.value), None)
        if depth is not None:
            facts["depth"] = {**depth.model_dump(exclude={"value", "source"}), "magnitude": depth.value[name]}
        return {"name": name, **facts}
