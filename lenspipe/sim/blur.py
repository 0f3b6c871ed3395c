"""The PSF of one simulated object: Gaussian or Moffat, of its own width in each band."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from lenspipe.lensing.psf import Blur, GaussianBlur, KernelBlur, moffat_kernel
from lenspipe.sim.survey import Survey


def draw_conditions(rng: Generator, survey: Survey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FWHM in arcsec and rms of blank sky in flux units, (B,) each, scattered as the survey says."""
    n = len(survey.bands)
    fwhm = survey.per_band("psf_fwhm") * np.exp(rng.normal(0, survey.psf_scatter, n))
    return fwhm, survey.sky_rms() * np.exp(rng.normal(0, survey.sky_scatter, n))


def blur_for(survey: Survey, fwhm: NDArray[np.float64], dtype: torch.dtype = torch.float32) -> Blur:
    """The blur of (..., B, H, W) images by its method `each`; `fwhm` (B,) arcsec."""
    shape = (survey.n_pixels, survey.n_pixels)
    betas = [band.psf_beta for band in survey.bands]
    if None in betas:
        return GaussianBlur(shape, fwhm, survey.pixel_scale, dtype)
    kernels = [moffat_kernel(float(f), float(b or 0), survey.pixel_scale, survey.n_pixels) for f, b in zip(fwhm, betas)]
    size = max(len(kernel) for kernel in kernels)
    padded = np.stack([np.pad(kernel, (size - len(kernel)) // 2) for kernel in kernels])
    return KernelBlur(shape, padded, dtype)
