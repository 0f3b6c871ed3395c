"""What a survey does to light: pixels, seeing, sky, and how many electrons stand behind a unit of flux."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lenspipe.config import Config


class Band(Config):
    """One filter of a coadd."""

    name: str = Field(description="as in the shards")
    electron_zero_point: float = Field(description="AB magnitude that gives one electron per second")
    sky_brightness: float = Field(description="AB mag per square arcsec")
    psf_fwhm: float = Field(gt=0, description="arcsec, median over objects; of the effective PSF (pixel included)")


class Survey(Config):
    """Defaults: a DES-like coadd; depth comes out near DES Y6 (10 sigma in 2 arcsec: g 24.7, r 24.4, i 23.9)."""

    name: str = Field("des", description="stands in the model card of networks trained on it")
    bands: tuple[Band, ...] = (
        Band(name="g", electron_zero_point=26.6, sky_brightness=22.0, psf_fwhm=1.25),
        Band(name="r", electron_zero_point=26.8, sky_brightness=21.1, psf_fwhm=0.9),
        Band(name="i", electron_zero_point=26.7, sky_brightness=20.1, psf_fwhm=0.8),
    )
    pixel_scale: float = Field(0.2637, gt=0, description="arcsec per pixel")
    n_pixels: int = Field(45, ge=16, description="pixels on a side")
    zero_point: float = Field(30.0, description="AB magnitude of one flux unit of the coadd")
    exposure_s: float = Field(90.0, gt=0, description="seconds of one exposure")
    n_exposures: int = Field(10, ge=1, description="exposures in the coadd")
    read_noise: float = Field(7.0, ge=0, description="electrons rms per pixel and exposure")
    psf_scatter: float = Field(0.06, ge=0, description="relative scatter of the FWHM from object to object and band")
    sky_scatter: float = Field(0.05, ge=0, description="relative scatter of the sky rms from object to object")

    def effective_gain(self) -> NDArray[np.float64]:
        """(B,) electrons behind one flux unit: the `exposure_time` of lenstronomy, variance = flux / exposure_time.

        One unit is a source of magnitude `zero_point`, which gives ``10^(-0.4 (zero_point - electron_zero_point))``
        electrons a second; the coadd collects them in all its exposures. (Neither the 90 s of one exposure nor the
        900 s of all of them is the right number at a zero point of 30.)
        """
        per_second = 10 ** (-0.4 * (self.zero_point - self._array("electron_zero_point")))
        return np.asarray(per_second * self.exposure_s * self.n_exposures)

    def sky_rms(self) -> NDArray[np.float64]:
        """(B,) rms of a blank pixel in flux units: photon noise of the sky and read noise, each counted once."""
        depth = self._array("electron_zero_point") - self._array("sky_brightness")
        sky = 10 ** (0.4 * depth) * self.pixel_scale**2 * self.exposure_s
        electrons = np.sqrt(self.n_exposures * (sky + self.read_noise**2))
        return np.asarray(electrons / self.effective_gain())

    def flux(self, magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
        """Flux units of AB magnitudes."""
        return np.asarray(10 ** (-0.4 * (magnitude - self.zero_point)))

    def _array(self, name: str) -> NDArray[np.float64]:
        return np.array([getattr(band, name) for band in self.bands])
