"""Deflection angles of the mass profiles, lenstronomy's definitions.

Legend: parameters broadcast against the coordinates, e.g. (K, 1, 1) against (1, W) and (H, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

_CORE = 1e-10
"""arcsec; softening of an SIE, as in lenstronomy: an NIE with this core."""


_TINY = 1e-30
"""Under a root, for a finite gradient at e = 0; far below the rounding of any ellipticity."""


def axis_ratio(e1: Tensor, e2: Tensor) -> Tensor:
    """q = (1 - c) / (1 + c) of the ellipticity modulus c = |e|, which is capped at 0.9999."""
    c = torch.sqrt(e1 * e1 + e2 * e2 + _TINY).clamp(max=0.9999)
    return (1 - c) / (1 + c)


def sie(
    x: Tensor, y: Tensor, theta_E: Tensor, e1: Tensor, e2: Tensor, center_x: Tensor, center_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Singular isothermal ellipsoid (Keeton & Kochanek 1998, ApJ 495, 157, eqs. 33 to 36).

    theta_E is the product-averaged Einstein radius: 2 kappa = theta_E / sqrt(q x^2 + y^2 / q) on the major axes.

    Returns
    -------
    alpha_x, alpha_y : deflection in arcsec, of the broadcast shape.
    """
    # The nearly round limit: 1 - q must not vanish in the arithmetic of the dtype.
    q_max = 0.99999999 if theta_E.dtype == torch.float64 else 0.9995
    q = axis_ratio(e1, e2).clamp(max=q_max)
    # cos(phi) and sin(phi) from the half-angle formulae: no trigonometry, finite gradients at e = 0.
    modulus = torch.sqrt(e1 * e1 + e2 * e2 + _TINY)
    cos2 = (e1 / modulus).clamp(-1, 1)
    cos = torch.sqrt(((1 + cos2) / 2).clamp(min=1e-24))
    sin = torch.sqrt(((1 - cos2) / 2).clamp(min=1e-24)) * torch.where(e2 < 0, -1.0, 1.0).to(e2.dtype)
    root_q = torch.sqrt(q)
    b, s, f = theta_E * root_q, _CORE / root_q, torch.sqrt(1 - q * q)
    dx, dy = x - center_x, y - center_y
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    psi = torch.sqrt(q * q * (s * s + u * u) + v * v)
    along = b / f * torch.atan(f * u / (psi + s))
    across = b / f * torch.atanh(f * v / (psi + q * q * s))
    return cos * along - sin * across, sin * along + cos * across


def shear(x: Tensor, y: Tensor, gamma1: Tensor, gamma2: Tensor) -> tuple[Tensor, Tensor]:
    """External shear about the origin of the coordinates: alpha = [[g1, g2], [g2, -g1]] (x, y)."""
    return gamma1 * x + gamma2 * y, gamma2 * x - gamma1 * y
