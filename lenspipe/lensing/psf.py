"""Blurring by the PSF: Gaussians as two small matrices, pixel kernels by FFT. Both as lenstronomy does them."""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

TRUNCATE = 4.0
"""Gaussians end at this many sigma."""
_SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))


def gaussian_operators(
    height: int, width: int, fwhm: float, pixel_scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """G_H (H, H) and G_W (W, W) with ``blurred = G_H @ image @ G_W.T``; `fwhm` in arcsec.

    Exactly `scipy.ndimage.gaussian_filter` with ``mode="nearest"``: edges are replicated.
    """
    rows = _gaussian_operator(height, fwhm * _SIGMA_PER_FWHM / pixel_scale)
    return rows, rows if width == height else _gaussian_operator(width, fwhm * _SIGMA_PER_FWHM / pixel_scale)


def _gaussian_operator(n: int, sigma: float) -> NDArray[np.float64]:
    """(n, n); out[i] = sum_t w[t] in[min(max(i + t, 0), n - 1)]."""
    radius = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    i = np.arange(n)
    shift = i - i[:, None] + radius
    operator = np.where((shift >= 0) & (shift <= 2 * radius), weights[np.clip(shift, 0, 2 * radius)], 0.0)
    below = np.concatenate([[0.0], np.cumsum(weights)])  # below[k]: the weights before the k-th
    operator[:, 0] = below[np.clip(radius - i + 1, 0, 2 * radius + 1)]
    operator[:, -1] = 1 - below[np.clip(radius + n - 1 - i, 0, 2 * radius + 1)]
    return operator


def gaussian_kernel(fwhm: float, pixel_scale: float) -> NDArray[np.float64]:
    """(k, k) image of a Gaussian PSF out to 4 sigma, k odd, sum 1."""
    sigma = fwhm * _SIGMA_PER_FWHM / pixel_scale
    radius = max(int(TRUNCATE * sigma + 0.5), 1)
    t = np.arange(-radius, radius + 1)
    line = np.exp(-0.5 * (t / sigma) ** 2)
    kernel = np.outer(line, line)
    return np.asarray(kernel / kernel.sum())


def moffat_kernel(fwhm: float, beta: float, pixel_scale: float, largest: int) -> NDArray[np.float64]:
    """(k, k) image of a Moffat (1969, A&A 3, 455) PSF, k odd and at most `largest`, sum 1.

    Sampled at pixel centres, out to the radius that holds 99.5 % of the flux: `fwhm` is that of the effective PSF.
    """
    alpha = moffat_alpha(fwhm, beta) / pixel_scale
    reach = alpha * math.sqrt(0.005 ** (1 / (1 - beta)) - 1)
    radius = min(max(math.ceil(reach), 1), (largest - 1) // 2)
    squared = np.arange(-radius, radius + 1) ** 2
    kernel = (1 + (squared[:, None] + squared) / alpha**2) ** -beta
    return np.asarray(kernel / kernel.sum())


def moffat_alpha(fwhm: float, beta: float) -> float:
    """Scale radius of (1 + (r / alpha)^2)^-beta, in the unit of `fwhm`."""
    return fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))


class GaussianBlur:
    """(..., H, W) -> (..., B, H, W): one Gaussian per band. `each` takes an image per band instead.

    Parameters
    ----------
    fwhm : B values in arcsec.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        fwhm: NDArray[np.float64],
        pixel_scale: float,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        pairs = [gaussian_operators(*shape, float(f), pixel_scale) for f in fwhm]
        self.bands, (self.height, self.width) = len(pairs), shape
        self.rows = torch.as_tensor(np.stack([p[0] for p in pairs]), dtype=dtype, device=device)
        # All bands' column operators side by side: one matrix product for the lot.
        self.columns = torch.as_tensor(np.concatenate([p[1].T for p in pairs], axis=1), dtype=dtype, device=device)

    def __call__(self, image: Tensor) -> Tensor:
        lead = image.shape[:-2]
        wide = (image.reshape(-1, self.width) @ self.columns).view(-1, self.height, self.bands, self.width)
        blurred = torch.matmul(self.rows, wide.permute(0, 2, 1, 3))
        return blurred.view(*lead, self.bands, self.height, self.width)

    def each(self, images: Tensor) -> Tensor:
        """(..., B, H, W) -> the same, the image of each band by that band's Gaussian."""
        return torch.matmul(self.rows, torch.matmul(images, self.column_operators))

    @property
    def column_operators(self) -> Tensor:
        """(B, W, W), to be multiplied from the right."""
        return self.columns.view(self.width, self.bands, self.width).transpose(0, 1)


class KernelBlur:
    """(..., H, W) -> (..., B, H, W): one pixel kernel per band, zero beyond the edges, by FFT.

    `each` takes an image per band instead.

    Parameters
    ----------
    kernels : (B, h, w), odd sizes.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        kernels: NDArray[np.floating],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        self.shape, self.kernels = shape, kernels
        h, w = kernels.shape[1:]
        self.offset = (h // 2, w // 2)
        self.size = [scipy.fft.next_fast_len(n + k - 1, real=True) for n, k in zip(shape, (h, w))]
        kernel = torch.as_tensor(np.asarray(kernels, dtype=np.float64), dtype=dtype, device=device)
        self.transform = torch.fft.rfft2(kernel, self.size)

    def __call__(self, image: Tensor) -> Tensor:
        return self.each(image.unsqueeze(-3))

    def each(self, images: Tensor) -> Tensor:
        """(..., B, H, W) -> the same, the image of each band by that band's kernel."""
        spectrum = torch.fft.rfft2(images, self.size) * self.transform
        (top, left), (height, width) = self.offset, self.shape
        full: Tensor = torch.fft.irfft2(spectrum, self.size)
        return full[..., top : top + height, left : left + width]


Blur = GaussianBlur | KernelBlur
