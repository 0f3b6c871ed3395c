"""Pixel coordinates: x to the right (+column), y up (+row), origin at the cutout's centre ``(N-1)/2``."""

from __future__ import annotations

import torch
from torch import Tensor


def axes(
    height: int,
    width: int,
    pixel_scale: float,
    supersampling: int = 1,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Coordinates of the (sub)pixel centres: x (1, W s) and y (H s, 1) in arcsec, for s x s subpixels a pixel."""
    step = pixel_scale / supersampling

    def axis(n: int) -> Tensor:
        n *= supersampling
        return (torch.arange(n, dtype=dtype, device=device) - (n - 1) / 2) * step

    return axis(width)[None, :], axis(height)[:, None]


def bin_mean(image: Tensor, factor: int) -> Tensor:
    """(..., H f, W f) -> (..., H, W): the mean over each pixel's f x f subpixels."""
    if factor == 1:
        return image
    *lead, h, w = image.shape
    return image.reshape(*lead, h // factor, factor, w // factor, factor).mean((-3, -1))
