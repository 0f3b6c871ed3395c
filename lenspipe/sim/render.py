"""Scenes to noiseless layers, many at a time.

The numerics are lenstronomy's, and so those of a fit: surface brightness averaged over a pixel's subpixels, then
blurred by the PSF on the pixel grid. Stars are the PSF itself, read off at the pixel centres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenspipe.lensing import grid, light, mass, psf
from lenspipe.sim.population import LAYERS, Light, Scene
from lenspipe.sim.survey import Survey

_BATCH = 64
"""Profiles rendered at once: bounds the memory."""


def layers(
    scenes: Sequence[Scene], fwhm: NDArray[np.float64], survey: Survey, supersampling: int
) -> NDArray[np.float32]:
    """Flux per pixel of every layer.

    Parameters
    ----------
    scenes : N scenes.
    fwhm : (N, B) arcsec.
    supersampling : subpixels on a pixel's side.

    Returns
    -------
    (N, L, B, H, W) f4, layers ordered as `LAYERS`.
    """
    shape = (len(scenes), len(LAYERS), len(survey.bands), survey.n_pixels, survey.n_pixels)
    result = torch.zeros(shape, dtype=torch.float32)
    flat = [(row, item) for row, scene in enumerate(scenes) for item in scene.lights]
    for extended in (True, False):
        for lensed in (True, False):
            chosen = [(row, item) for row, item in flat if (item.radius > 0) == extended and item.lensed == lensed]
            for start in range(0, len(chosen), _BATCH):
                rows, items = zip(*chosen[start : start + _BATCH])
                images = _render([scenes[r] for r in rows], items, fwhm[list(rows)], survey, supersampling)
                layer = torch.tensor([LAYERS.index(item.layer) for item in items])
                result.index_put_((torch.tensor(rows), layer), images, accumulate=True)
    return np.asarray(result.numpy())


def _render(
    scenes: Sequence[Scene], items: Sequence[Light], fwhm: NDArray[np.float64], survey: Survey, supersampling: int
) -> Tensor:
    """(K, B, H, W) flux per pixel of K profiles that are all extended or all points, all lensed or all not."""
    n, scale = survey.n_pixels, survey.pixel_scale
    flux = torch.as_tensor(survey.flux(np.stack([item.magnitude for item in items])), dtype=torch.float32)
    if items[0].radius == 0:
        x, y = grid.axes(n, n, scale, dtype=torch.float32)
        squared = (x - _column(items, "x")) ** 2 + (y - _column(items, "y")) ** 2
        stars = torch.empty(*flux.shape, n, n)
        for b, band in enumerate(survey.bands):
            width = torch.as_tensor(fwhm[:, b], dtype=torch.float32)[:, None, None]
            stars[:, b] = scale**2 * _psf(squared / width**2, band.psf_beta) / width**2
        return flux[:, :, None, None] * stars
    x, y = grid.axes(n, n, scale, supersampling, dtype=torch.float32)
    brightness = grid.bin_mean(_surface_brightness(scenes, items, x, y), supersampling)[:, None]
    blurred = torch.cat([_blur(brightness[k], fwhm[k], survey) for k in range(len(items))])
    return flux[:, :, None, None] * scale**2 * blurred


def _blur(image: Tensor, fwhm: NDArray[np.float64], survey: Survey) -> Tensor:
    """(L, H, W) -> (L, B, H, W), by the PSF of each band."""
    n, scale = survey.n_pixels, survey.pixel_scale
    result = torch.empty((len(image), len(fwhm), n, n), dtype=image.dtype)
    for b, (band, width) in enumerate(zip(survey.bands, fwhm)):
        if band.psf_beta is None:
            operator = torch.as_tensor(psf.gaussian_operators(n, n, float(width), scale)[0], dtype=image.dtype)
            result[:, b] = operator @ image @ operator.mT
        else:
            kernel = psf.moffat_kernel(float(width), band.psf_beta, scale, n)
            result[:, b] = psf.KernelBlur((n, n), kernel[None], dtype=image.dtype)(image)[:, 0]
    return result


def _surface_brightness(scenes: Sequence[Scene], items: Sequence[Light], x: Tensor, y: Tensor) -> Tensor:
    """(K, h, w) per square arcsec, of unit total flux before lensing."""
    if items[0].lensed:
        sie = [_stack([s.mass[name] for s in scenes]) for name in ("theta_E", "e1", "e2", "center_x", "center_y")]
        ax, ay = mass.sie(x, y, *sie)
        sx, sy = mass.shear(x, y, *(_stack([s.mass[name] for s in scenes]) for name in ("gamma1", "gamma2")))
        x, y = x - ax - sx, y - ay - sy
    radius, n_sersic, e1, e2, cx, cy = (_column(items, name) for name in ("radius", "n_sersic", "e1", "e2", "x", "y"))
    image = light.sersic_ellipse(x, y, radius, n_sersic, e1, e2, cx, cy) / light.sersic_flux(radius, n_sersic)
    arms = _column(items, "arms")
    if not arms.any():
        return image
    # Logarithmic spirals in the disc's own plane; the modulation averages to 1 over each ellipse.
    u, v = (1 - e1) * (x - cx) - e2 * (y - cy), (1 + e1) * (y - cy) - e2 * (x - cx)
    turn = 0.5 * torch.log(u * u + v * v + 1e-6) / torch.tan(_column(items, "pitch"))
    return image * (1 + arms * torch.cos(2 * (torch.atan2(v, u) - turn) + _column(items, "phase")))


def _psf(squared: Tensor, beta: float | None) -> Tensor:
    """Brightness of a star of unit flux and FWHM 1 at the squared distance; of a Moffat where `beta` is not None."""
    if beta is None:
        return torch.exp(-4 * math.log(2) * squared) * (4 * math.log(2) / math.pi)
    alpha2 = psf.moffat_alpha(1.0, beta) ** 2
    return (1 + squared / alpha2) ** -beta * ((beta - 1) / (math.pi * alpha2))


def _stack(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def _column(items: Sequence[Light], name: str) -> Tensor:
    """(K, 1, 1)."""
    return _stack([getattr(item, name) for item in items])
