"""Surface brightness of the light profiles, lenstronomy's definitions, at unit amplitude.

Each profile takes x, y and then its parameters in the order of `lenspipe.lensing.params.LIGHT`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_R_MIN = 1e-4
"""arcsec; radii below are raised to it, as in lenstronomy."""


def sersic_b(n_sersic: Tensor) -> Tensor:
    """b_n = 1.9992 n - 0.3271, lenstronomy's approximation (Capaccioli 1989), at least 1e-5."""
    return (1.9992 * n_sersic - 0.3271).clamp(min=1e-5)


def sersic_ellipse(
    x: Tensor,
    y: Tensor,
    R_sersic: Tensor,
    n_sersic: Tensor,
    e1: Tensor,
    e2: Tensor,
    center_x: Tensor,
    center_y: Tensor,
) -> Tensor:
    """Elliptical Sersic profile exp(-b_n ((R / R_sersic)^(1/n) - 1)) (Sersic 1968), zero beyond 1000 R_sersic.

    R is the product-averaged radius; the brightness at R_sersic is 1 per arcsec^2.
    """
    squared = _squared_radius(x - center_x, y - center_y, e1, e2)
    return _sersic(squared, R_sersic, n_sersic)


def sersic(x: Tensor, y: Tensor, R_sersic: Tensor, n_sersic: Tensor, center_x: Tensor, center_y: Tensor) -> Tensor:
    """`sersic_ellipse` of a round galaxy."""
    dx, dy = x - center_x, y - center_y
    return _sersic(dx * dx + dy * dy, R_sersic, n_sersic)


def sersic_flux(R_sersic: Tensor, n_sersic: Tensor) -> Tensor:
    """Flux to infinity of a Sersic profile of unit amplitude (Graham & Driver 2005, PASA 22, 118, eq. 2)."""
    b = sersic_b(n_sersic)
    log_flux = torch.log(n_sersic) + b - 2 * n_sersic * torch.log(b) + torch.lgamma(2 * n_sersic)
    return 2 * math.pi * R_sersic.square() * torch.exp(log_flux)


def gaussian_ellipse(
    x: Tensor, y: Tensor, sigma: Tensor, e1: Tensor, e2: Tensor, center_x: Tensor, center_y: Tensor
) -> Tensor:
    """Elliptical Gaussian of unit flux, exp(-R^2 / (2 sigma^2)) / (2 pi sigma^2), R the product-averaged radius."""
    variance = sigma.square()
    squared = _squared_radius(x - center_x, y - center_y, e1, e2)
    return torch.exp(-0.5 * squared / variance) / (2 * math.pi * variance)


BRIGHTNESS: dict[str, Callable[..., Tensor]] = {
    "SERSIC_ELLIPSE": sersic_ellipse,
    "SERSIC": sersic,
    "GAUSSIAN_ELLIPSE": gaussian_ellipse,
}


def unit_flux(profile: str, parameters: Sequence[Tensor]) -> Tensor:
    """Flux to infinity at unit amplitude, before lensing; `parameters` in the order of `params.LIGHT`."""
    if profile == "GAUSSIAN_ELLIPSE":
        return torch.ones_like(parameters[0])
    return sersic_flux(parameters[0], parameters[1])


def half_light(profile: str) -> float:
    """Radius that holds half the flux, in units of the profile's first parameter, its size."""
    return math.sqrt(2 * math.log(2)) if profile == "GAUSSIAN_ELLIPSE" else 1.0


def _sersic(squared: Tensor, R_sersic: Tensor, n_sersic: Tensor) -> Tensor:
    squared = squared.clamp(min=_R_MIN**2) / R_sersic.clamp(min=_R_MIN).square()
    brightness = torch.exp(-sersic_b(n_sersic) * (torch.exp(torch.log(squared) * (0.5 / n_sersic)) - 1))
    return torch.where(squared > 1e6, torch.zeros_like(brightness), brightness)


def _squared_radius(dx: Tensor, dy: Tensor, e1: Tensor, e2: Tensor) -> Tensor:
    """R^2 of the ellipse through (dx, dy) of product-averaged radius R."""
    u, v = (1 - e1) * dx - e2 * dy, (1 + e1) * dy - e2 * dx
    return (u * u + v * v) / (1 - e1 * e1 - e2 * e2).abs().clamp(min=1e-6)
