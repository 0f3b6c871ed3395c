"""What lies under the simulated objects: noise that is drawn, or real cutouts of the sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from lenspipe.config import Config

_SEEN = 3.0
"""S/N in a pixel of the smoothed sky from which it belongs to a real object."""


class Noise(Config):
    """What drawn noise is like beyond its rms."""

    correlation: float = Field(
        0.0, ge=0, description="pixels, sigma of the Gaussian that the sky's noise is smoothed by; its rms stays"
    )
    bad_columns: float = Field(0.0, ge=0, description="mean number of masked columns in a band's cutout, Poisson")
    bad_pixels: float = Field(0.0, ge=0, lt=1, description="share of pixels masked besides; masked ones are NaN")

    def sky(self, rng: Generator, rms: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
        """(B, H, W) of rms (B,) and mean 0."""
        noise = rng.normal(0, 1, (len(rms), *shape))
        if self.correlation > 0:
            # Wrapped around, so that the edges are like the rest; white noise comes out with the rms of the kernel.
            impulse = np.zeros(shape)
            impulse[0, 0] = 1
            kernel = ndimage.gaussian_filter(impulse, self.correlation, mode="wrap")
            noise = ndimage.gaussian_filter(noise, (0, self.correlation, self.correlation), mode="wrap")
            noise /= np.sqrt(np.square(kernel).sum())
        return np.asarray(noise * rms[:, None, None])

    def mask(self, rng: Generator, image: NDArray[np.float32]) -> None:
        """Make the bad pixels of (B, H, W) `image` NaN; one usable pixel in two stays in any band."""
        if self.bad_columns == 0 and self.bad_pixels == 0:
            return
        for band in image:
            bad = rng.uniform(size=band.shape) < self.bad_pixels
            bad[:, rng.integers(0, band.shape[1], min(rng.poisson(self.bad_columns), band.shape[1] // 4))] = True
            if bad.mean() < 0.5:
                band[bad] = np.nan


WHITE = Noise()


@dataclass(frozen=True)
class Skies:
    """K real cutouts, their sky subtracted, all of one size that is not below the simulated ones'.

    Attributes
    ----------
    image : (K, B, h, w) f4, NaN where a pixel may not be used.
    rms : (K, B) of blank sky.
    fwhm : (K, B) arcsec, of the PSF that objects are to have there.
    """

    image: NDArray[np.float32]
    rms: NDArray[np.float64]
    fwhm: NDArray[np.float64]

    def pick(self, rng: Generator, n: int) -> tuple[int, NDArray[np.float32]]:
        """The number of a sky, and (B, n, n) of it: a place and one of the eight turns and flips at random."""
        which = int(rng.integers(len(self.image)))
        height, width = self.image.shape[2:]
        row, column = rng.integers(0, height - n + 1), rng.integers(0, width - n + 1)
        cut = self.image[which, :, row : row + n, column : column + n]
        cut = np.rot90(cut, int(rng.integers(4)), axes=(1, 2))
        return which, np.ascontiguousarray(cut[:, :, ::-1] if rng.integers(2) else cut)


def objects(sky: NDArray[np.float32], rms: NDArray[np.float64]) -> NDArray[np.float32]:
    """(B, n, n) flux of what stands out of a real sky, 0 elsewhere: the layer of other objects.

    Bands are added by inverse variance and smoothed by a Gaussian of one pixel; its pixels above 3 sigma are objects.
    """
    clean = np.nan_to_num(sky)
    weight = 1 / np.square(rms)
    snr = np.einsum("bhw,b->hw", clean, weight) / np.sqrt(weight.sum())
    # White noise smoothed by a Gaussian of sigma s has the rms 1 / (2 sqrt(pi) s).
    seen = ndimage.gaussian_filter(snr, 1.0) * 2 * np.sqrt(np.pi) > _SEEN
    return np.asarray(np.where(seen, np.maximum(clean, 0), 0), dtype=np.float32)
