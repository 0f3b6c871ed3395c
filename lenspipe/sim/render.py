"""Scenes to noiseless layers, many at a time.

The numerics are lenstronomy's, and so those of a fit: surface brightness averaged over a pixel's subpixels, then
blurred by the PSF on the pixel grid. Stars are the PSF itself, read off at the pixel centres. It goes object by object,
so that one comes out the same to the last bit in any batch; in float32 where that is exact to 1e-6 of an image's peak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenspipe.lensing import grid, light, mass
from lenspipe.lensing.kernel import render as kernel
from lenspipe.sim.blur import blur_for, point_images
from lenspipe.sim.scene import LAYERS, Light, Scene, Streak
from lenspipe.sim.survey import Survey

_SIGMA_PER_FWHM = 1 / math.sqrt(8 * math.log(2))
_SIE = ("theta_E", "e1", "e2", "center_x", "center_y")
_NO_DEFLECTOR = (0.0, 0.0, 0.0, 0.0, 0.0)


def layers(
    scenes: Sequence[Scene],
    fwhm: NDArray[np.float64],
    survey: Survey,
    supersampling: int,
    device: torch.device | str | None = None,
) -> NDArray[np.float32]:
    """Flux per pixel of every layer.

    Parameters
    ----------
    scenes : N scenes.
    fwhm : (N, B) arcsec.
    supersampling : subpixels on a pixel's side.
    device : where torch renders; None: the compiled kernel where there is one, else torch on the CPU.

    Returns
    -------
    (N, L, B, H, W) f4, layers ordered as `LAYERS`.
    """
    lights = _Lights(scenes, survey)
    widths = fwhm * (_SIGMA_PER_FWHM / survey.pixel_scale)
    gaussian = all(band.psf_beta is None for band in survey.bands)
    if device is None and kernel.available() and 4 * widths.max(initial=0) + 1 < kernel.REACH:
        x, y = (
            a.numpy().ravel() for a in grid.axes(survey.n_pixels, survey.n_pixels, survey.pixel_scale, supersampling)
        )
        result = kernel.render(
            x,
            y,
            supersampling,
            lights.first,
            lights.profiles,
            lights.layer,
            lights.plane,
            lights.flux,
            lights.planes,
            widths if gaussian else None,
            len(LAYERS),
            np.float32 if gaussian else np.float64,
        )
        if not gaussian:
            blurs = (blur_for(survey, of_one, torch.float64) for of_one in fwhm)
            result = np.stack([blur.each(torch.as_tensor(image)).numpy() for blur, image in zip(blurs, result)])
    else:
        result = _by_torch(lights, fwhm, survey, supersampling, device or "cpu")
    result = result.astype(np.float32, copy=False)
    for row, scene in enumerate(scenes):
        for item in scene.lights:
            if item.radius == 0:
                star = point_images(survey, fwhm[row], item.x, item.y)
                result[row, LAYERS.index(item.layer)] += survey.flux(item.magnitude)[:, None, None] * star
        for streak in scene.streaks:
            bands = slice(None) if streak.band is None else slice(streak.band, streak.band + 1)
            result[row, LAYERS.index("others"), bands] += _streak(streak, survey)[bands]
    return result


class _Lights:
    """The extended lights of N scenes in arrays, as `lenspipe.lensing.kernel.render` takes them."""

    def __init__(self, scenes: Sequence[Scene], survey: Survey):
        rows = [[item for item in scene.lights if item.radius > 0] for scene in scenes]
        items = [item for row in rows for item in row]
        self.first = np.cumsum([0, *(len(row) for row in rows)])
        self.profiles = np.array([_profile(item) for item in items], dtype=np.float64).reshape(-1, 9)
        self.layer = np.array([LAYERS.index(item.layer) for item in items], dtype=np.intc)
        self.plane = np.array([item.plane for item in items], dtype=np.intc)
        magnitude = np.array([item.magnitude for item in items]).reshape(-1, len(survey.bands))
        radius, n_sersic = (torch.as_tensor(self.profiles[:, i]) for i in (0, 1))
        whole = light.sersic_flux(radius, n_sersic).numpy()[:, None]
        self.flux = survey.flux(magnitude) * survey.pixel_scale**2 / whole
        self.planes = np.array([_planes(scene) for scene in scenes], dtype=np.float64).reshape(-1, 13)


def _profile(item: Light) -> tuple[float, ...]:
    shape = (item.radius, item.n_sersic, item.e1, item.e2, item.x, item.y)
    return (*shape, item.arms, item.pitch, item.phase)


def _planes(scene: Scene) -> tuple[float, ...]:
    lens, behind = scene.mass, scene.behind
    main = tuple(lens[name] for name in (*_SIE, "gamma1", "gamma2")) if lens else (*_NO_DEFLECTOR, 0.0, 0.0)
    second = tuple(behind[name] for name in ("scale", *_SIE)) if behind else (1.0, *_NO_DEFLECTOR)
    return (*main, *second)


def _by_torch(
    lights: _Lights, fwhm: NDArray[np.float64], survey: Survey, supersampling: int, device: torch.device | str
) -> NDArray[np.floating]:
    """`kernel.render` in torch, a scene at a time, blurred."""
    n, scale = survey.n_pixels, survey.pixel_scale
    x, y = grid.axes(n, n, scale, supersampling, device=device)
    result = np.zeros((len(fwhm), len(LAYERS), len(survey.bands), n, n))
    for row in range(len(fwhm)):
        which = slice(lights.first[row], lights.first[row + 1])
        if which.start == which.stop:
            continue
        p = torch.as_tensor(lights.profiles[which], device=device)
        planes = [x.expand(len(y), -1), y.expand(-1, x.shape[1])]
        rays = torch.stack([torch.stack(planes), *_ray_shoot(x, y, torch.as_tensor(lights.planes[row], device=device))])
        seen = rays[torch.as_tensor(lights.plane[which], device=device, dtype=torch.long)]
        images = grid.bin_mean(_surface_brightness(p, seen[:, 0], seen[:, 1]), supersampling)
        member = torch.eye(len(LAYERS), dtype=p.dtype, device=device)[lights.layer[which]]
        flux = torch.as_tensor(lights.flux[which], device=device)
        layered = torch.einsum("kl,kb,khw->lbhw", member, flux, images)
        result[row] = blur_for(survey, fwhm[row], torch.float64, device).each(layered).cpu().numpy()
    return result


def _ray_shoot(x: Tensor, y: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """(2, h, w) where rays meet the plane of the first source, and that of the second."""
    ax, ay = mass.sie(x, y, *p[:5])
    sx, sy = mass.shear(x, y, p[5], p[6])
    beta_x, beta_y = x - ax - sx, y - ay - sy
    bx, by = mass.sie(beta_x, beta_y, *p[8:])
    second = torch.stack([x - p[7] * (x - beta_x) - bx, y - p[7] * (y - beta_y) - by])
    return torch.stack([beta_x, beta_y]), second


def _surface_brightness(p: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(K, h, w) of unit amplitude, for (K, 9) profiles."""
    radius, n_sersic, e1, e2, cx, cy, arms, pitch, phase = p.T[:, :, None, None]
    image = light.sersic_ellipse(x, y, radius, n_sersic, e1, e2, cx, cy)
    if not arms.any():
        return image
    # Logarithmic spirals in the disc's own plane; the modulation averages to 1 over each ellipse.
    u, v = (1 - e1) * (x - cx) - e2 * (y - cy), (1 + e1) * (y - cy) - e2 * (x - cx)
    turn = 0.5 * torch.log(u * u + v * v + 1e-6) / torch.tan(pitch)
    return image * (1 + arms * torch.cos(2 * (torch.atan2(v, u) - turn) + phase))


def _streak(streak: Streak, survey: Survey) -> NDArray[np.float64]:
    """(B, H, W), a line of Gaussian cross-section."""
    x, y = (a.numpy() for a in grid.axes(survey.n_pixels, survey.n_pixels, survey.pixel_scale))
    dx, dy = x - streak.x, y - streak.y
    along = dx * math.cos(streak.angle) + dy * math.sin(streak.angle)
    across = dy * math.cos(streak.angle) - dx * math.sin(streak.angle)
    beyond = np.maximum(np.abs(along) - streak.length / 2, 0)
    shape = np.exp(-0.5 * (across**2 + beyond**2) / streak.width**2)
    return np.asarray(streak.peak * survey.sky_rms()[:, None, None] * shape)
