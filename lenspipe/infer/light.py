"""Lens light by many Gaussians (Cappellari 2002, MNRAS 333, 400), its shape fitted first and then held.

Real galaxies are no single Sersic profile, and what a Sersic leaves over is taken for arcs. A set of concentric
Gaussians of one ellipticity and non-negative amplitudes follows any profile. Once its shape is known the Gaussians are
fixed images, whose amplitudes the likelihood goes on solving for together with the source's.

Legend: B bands, G Gaussians (all sets), T templates, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.optimize import least_squares

from lenspipe.infer.likelihood import Imaging, blur_of
from lenspipe.infer.linear import non_negative_but_last
from lenspipe.infer.prepare import Prepared, with_light_error
from lenspipe.lensing.grid import axes
from lenspipe.lensing.light import gaussian_ellipse
from lenspipe.lensing.psf import Blur

Floats = NDArray[np.float64]

PER_SET = 16
"""Gaussians of a set, their widths spaced evenly in the logarithm from below a pixel to the window's side."""
_PIXEL = 12**-0.5
"""Standard deviation of a pixel in pixels: what integrating over it adds to a Gaussian's width."""
_FARTHEST, _FLATTEST = 0.3, 0.6
"""Bounds: arcsec of the centre from where the light peaks, and of each ellipticity component."""
_ROUND = 0.6
"""Prior sigma of the first set's ellipticity, each component."""
_ROBUST = 2.0
"""Residuals in sigma beyond which pixels lose their pull: arcs and neighbours are still there."""
_MOST = 0.35
"""No more ellipticity than this is expected of the mass."""


@dataclass(frozen=True)
class HeldLight:
    """Lens light whose shape is fixed and whose amplitudes are free.

    Attributes
    ----------
    centre : x, y, arcsec.
    e1, e2 : ellipticity, the mean of the sets weighted with their flux in the inner quarter of the window.
    templates : (B,T,H,W) blurred images, a uniform sky among them.
    model : (B,H,W) best light without source, sky included, in the image's flux unit.
    components : lenstronomy's name and keyword arguments, without the amplitude, of each template.
    shape : for `fit_gaussians` to start from.
    """

    centre: tuple[float, float]
    e1: float
    e2: float
    templates: Floats
    model: Floats
    components: tuple[tuple[str, dict[str, float]], ...]
    shape: Floats | None = None

    def onto(self, imaging: Imaging, light_error: float) -> Imaging:
        """`imaging` with this light as templates and its error in the noise map."""
        return replace(with_light_error(imaging, self.model, light_error), templates=self.templates)


def fit_gaussians(
    prepared: Prepared,
    sets: int,
    light_error: float,
    source: Floats | None = None,
    begin: HeldLight | None = None,
) -> HeldLight:
    """Fit `sets` sets of Gaussians with a common centre to the lens light; arcs are found by what stays too bright.

    Parameters
    ----------
    source : (B,H,W) image of the lensed source, subtracted first; then nothing is masked.
    begin : an earlier fit with the same `sets`.
    """
    imaging = prepared.imaging
    fit = _Gaussians(imaging, sets)
    image = np.asarray(imaging.image if source is None else imaging.image - source)
    start = _first(prepared, sets) if begin is None or begin.shape is None else begin.shape
    before = np.zeros_like(image) if begin is None else begin.model
    sigma = np.asarray(with_light_error(imaging, before, light_error).sigma)
    rounds = (8, 8, 4) if source is None else (8, 4) if begin is None else (5,)
    mask = imaging.mask
    for evaluations in rounds:
        shape, layers, amplitudes = fit.solve(image, sigma, mask, start, evaluations)
        model = np.einsum("bg,bghw->bhw", amplitudes, layers)
        start = shape
        sigma = np.asarray(with_light_error(imaging, model, light_error).sigma)
        if source is None:
            significance = ((image - model) / sigma * imaging.mask).sum(0) / np.sqrt(imaging.mask.sum(0).clip(1))
            mask = imaging.mask & ~bright_residual(significance, imaging, (shape[0], shape[1]))
    inner = 1 - np.exp(-0.5 * (min(imaging.shape) * imaging.pixel_scale / 4 / fit.widths) ** 2)
    flux = (amplitudes[:, :-1] / np.median(sigma, (1, 2))[:, None]).sum(0).reshape(sets, -1) @ inner
    e = flux @ shape[2:].reshape(sets, 2) / max(flux.sum(), 1e-300)
    e *= min(1.0, _MOST / max(float(np.hypot(*e)), 1e-9))
    # A Gaussian that got no flux explains nothing; the sky stays.
    active = (amplitudes > 0) | (np.arange(amplitudes.shape[1]) == amplitudes.shape[1] - 1)
    kept = active.any(0)
    templates = (layers * active[:, :, None, None])[:, kept]
    components = tuple(c for c, k in zip(fit.components(shape), kept) if k)
    return HeldLight((float(shape[0]), float(shape[1])), float(e[0]), float(e[1]), templates, model, components, shape)


def bright_residual(significance: Floats, imaging: Imaging, centre: tuple[float, float]) -> NDArray[np.bool_]:
    """(H,W) pixels that stay 3 sigma too bright, smoothed, outside the core: arcs and neighbours."""
    width = 1.5
    smooth = gaussian_filter(significance, width) * np.sqrt(4 * np.pi) * width
    return binary_dilation((smooth > 3) & (imaging.distance(centre) > 6 * imaging.pixel_scale))


class _Gaussians:
    """The blurred Gaussians of a shape (centre, then e1, e2 of each set), and their best amplitudes."""

    def __init__(self, imaging: Imaging, sets: int):
        self.imaging, self.sets = imaging, sets
        scale = imaging.pixel_scale
        widths = np.geomspace(0.4 * scale, min(imaging.shape) * scale, PER_SET)
        self.widths = np.hypot(widths, _PIXEL * scale)
        self.x, self.y = axes(*imaging.shape, scale)
        self.blur: Blur = blur_of(imaging, torch.float64, "cpu")

    def layers(self, shape: Floats) -> Floats:
        """(B, G + 1, H, W), a uniform sky last."""
        sigma = torch.as_tensor(self.widths)[:, None, None]
        center = torch.as_tensor(shape[:2])
        images = [
            gaussian_ellipse(self.x, self.y, sigma, *torch.as_tensor(e)[:, None, None, None], *center)
            for e in shape[2:].reshape(self.sets, 2)
        ]
        sky = torch.ones(1, *self.imaging.shape, dtype=torch.float64)
        return np.asarray(self.blur(torch.cat([*images, sky])).transpose(0, 1).numpy())

    def components(self, shape: Floats) -> list[tuple[str, dict[str, float]]]:
        """What each layer is to lenstronomy."""
        center = {"center_x": float(shape[0]), "center_y": float(shape[1])}
        gaussians = [
            ("GAUSSIAN_ELLIPSE", {"sigma": float(sigma), "e1": float(e1), "e2": float(e2), **center})
            for e1, e2 in shape[2:].reshape(self.sets, 2)
            for sigma in self.widths
        ]
        return [*gaussians, ("UNIFORM", {})]

    def solve(
        self, image: Floats, sigma: Floats, mask: NDArray[np.bool_], start: Floats, evaluations: int
    ) -> tuple[Floats, Floats, Floats]:
        """Shape, layers and (B, G + 1) amplitudes that fit best, with little pull from what fits badly."""
        weight = np.where(mask, 1 / sigma, 0.0)

        def residuals(shape: Floats) -> Floats:
            layers = self.layers(shape)
            amplitudes = non_negative_but_last(layers, image, weight)
            left = (image - np.einsum("bg,bghw->bhw", amplitudes, layers)) * weight
            return np.concatenate([left[mask], shape[2:4] / _ROUND])

        bound = np.array([_FARTHEST] * 2 + [_FLATTEST] * (2 * self.sets))
        middle = np.concatenate([start[:2], np.zeros(2 * self.sets)])
        found = least_squares(
            residuals,
            np.clip(start, middle - bound * 0.99, middle + bound * 0.99),
            bounds=(middle - bound, middle + bound),
            loss="soft_l1",
            f_scale=_ROBUST,
            max_nfev=evaluations,
            diff_step=1e-4,
        )
        layers = self.layers(found.x)
        amplitudes = non_negative_but_last(layers, image, weight)
        for _ in range(3):
            left = (image - np.einsum("bg,bghw->bhw", amplitudes, layers)) * weight
            amplitudes = non_negative_but_last(layers, image, weight / (1 + (left / _ROBUST) ** 2) ** 0.25)
        return found.x, layers, amplitudes


def _first(prepared: Prepared, sets: int) -> Floats:
    """A nearly round shape centred on the brightest pixel, smoothed, near the lens."""
    imaging = prepared.imaging
    smooth = gaussian_filter(np.where(imaging.mask, imaging.image, 0).sum(0), 2)
    near = imaging.distance(prepared.centre) < 0.7
    row, column = np.unravel_index(np.argmax(np.where(near, smooth, -np.inf)), smooth.shape)
    height, width = imaging.shape
    x, y = (column - (width - 1) / 2) * imaging.pixel_scale, (row - (height - 1) / 2) * imaging.pixel_scale
    return np.array([x, y] + [0.02, 0.02] * sets)
