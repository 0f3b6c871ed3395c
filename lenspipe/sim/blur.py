"""The PSF of one simulated object: Gaussian or Moffat, of its own width in each band."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from lenspipe.lensing.psf import Blur, GaussianBlur, KernelBlur, gaussian_kernel, moffat_alpha, moffat_kernel
from lenspipe.sim.survey import Survey


def draw_conditions(rng: Generator, survey: Survey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FWHM in arcsec and rms of blank sky in flux units, (B,) each, scattered as the survey says."""
    n = len(survey.bands)
    fwhm = survey.per_band("psf_fwhm") * np.exp(rng.normal(0, survey.psf_scatter, n))
    return fwhm, survey.sky_rms() * np.exp(rng.normal(0, survey.sky_scatter, n))


def blur_for(
    survey: Survey,
    fwhm: NDArray[np.float64],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Blur:
    """The blur of (..., K, H, W) images by its method `each`.

    Parameters
    ----------
    fwhm : (K,) arcsec, of the bands in turn: K is a multiple of B.
    """
    shape = (survey.n_pixels, survey.n_pixels)
    betas = [band.psf_beta for band in survey.bands] * (len(fwhm) // len(survey.bands))
    if all(beta is None for beta in betas):
        return GaussianBlur(shape, fwhm, survey.pixel_scale, dtype, device)
    kernels = [_kernel(float(width), beta, survey) for width, beta in zip(fwhm, betas)]
    size = max(len(kernel) for kernel in kernels)
    padded = np.stack([np.pad(kernel, (size - len(kernel)) // 2) for kernel in kernels])
    return KernelBlur(shape, padded, dtype, device)


def _kernel(fwhm: float, beta: float | None, survey: Survey) -> NDArray[np.float64]:
    if beta is None:
        return gaussian_kernel(fwhm, survey.pixel_scale)
    return moffat_kernel(fwhm, beta, survey.pixel_scale, survey.n_pixels)


def point_images(survey: Survey, fwhm: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    """(..., B, H, W) pixel values of a point of unit flux at `x`, `y` arcsec; `fwhm` (..., B).

    The PSF read off at the pixel centres: its FWHM is that of the effective PSF, the pixel included.
    """
    n, scale = survey.n_pixels, survey.pixel_scale
    axis = (np.arange(n) - (n - 1) / 2) * scale
    squared = ((axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2) / fwhm[..., None, None] ** 2
    result = np.empty(squared.shape)
    for b, band in enumerate(survey.bands):
        if band.psf_beta is None:
            density = 4 * math.log(2) / math.pi * np.exp(-4 * math.log(2) * squared[..., b, :, :])
        else:
            alpha2 = moffat_alpha(1.0, band.psf_beta) ** 2
            density = (band.psf_beta - 1) / (math.pi * alpha2) * (1 + squared[..., b, :, :] / alpha2) ** -band.psf_beta
        result[..., b, :, :] = density
    return np.asarray(result * (scale / fwhm[..., None, None]) ** 2)
