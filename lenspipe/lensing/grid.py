"""Pixel coordinates: x to the right (+column), y up (+row), origin at the cutout's centre ``(N-1)/2``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
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


@dataclass(frozen=True)
class Patch:
    """Pixels that have more subpixels than the others: `rows`, `columns` (n,), and the subpixels' centres (n, f f)."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    x: Tensor
    y: Tensor


def patches(
    subpixels: NDArray[np.integer],
    pixel_scale: float,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> list[Patch]:
    """The pixels of each number f > 0 in `subpixels` (H, W), with f x f subpixels in each; none of the 0s."""
    height, width = subpixels.shape
    found = []
    for f in sorted(set(subpixels[subpixels > 0].tolist())):
        rows, columns = np.nonzero(subpixels == f)
        x, y = axes(height, width, pixel_scale, f, dtype, device)
        within = np.arange(f)
        across = (columns[:, None] * f + within)[:, None, :].repeat(f, axis=1).reshape(len(rows), -1)
        up = (rows[:, None] * f + within)[:, :, None].repeat(f, axis=2).reshape(len(rows), -1)
        found.append(Patch(rows, columns, x.flatten()[across], y.flatten()[up]))
    return found
