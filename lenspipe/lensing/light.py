"""Surface brightness of the light profiles, lenstronomy's definitions, at unit amplitude."""

from __future__ import annotations

import math

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
    dx, dy = x - center_x, y - center_y
    u, v = (1 - e1) * dx - e2 * dy, (1 + e1) * dy - e2 * dx
    norm = (1 - e1 * e1 - e2 * e2).abs().clamp(min=1e-6)
    squared = ((u * u + v * v) / norm).clamp(min=_R_MIN**2) / R_sersic.clamp(min=_R_MIN).square()
    brightness = torch.exp(-sersic_b(n_sersic) * (torch.exp(torch.log(squared) * (0.5 / n_sersic)) - 1))
    return torch.where(squared > 1e6, torch.zeros_like(brightness), brightness)


def sersic_flux(R_sersic: Tensor, n_sersic: Tensor) -> Tensor:
    """Flux to infinity of a Sersic profile of unit amplitude (Graham & Driver 2005, PASA 22, 118, eq. 2)."""
    b = sersic_b(n_sersic)
    log_flux = torch.log(n_sersic) + b - 2 * n_sersic * torch.log(b) + torch.lgamma(2 * n_sersic)
    return 2 * math.pi * R_sersic.square() * torch.exp(log_flux)
