"""Deflection angles of dark substructure: truncated NFW haloes and a straight string of mass.

Conventions as in `lenspipe.lensing.mass`. These are not among the profiles that a fit knows: there are hundreds of them
in one lens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_X_MIN = 1e-3
"""In units of Rs; within it a halo's deflection is not resolved by any pixel, and the formula would lose its digits."""
_TINY = 1e-12
"""arcsec^2; keeps the logarithm at a string's ends finite."""


def tnfw(
    x: Tensor, y: Tensor, Rs: Tensor, alpha_Rs: Tensor, r_trunc: Tensor, center_x: Tensor, center_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Truncated NFW halo (Baltz, Marshall & Oguri 2009, JCAP 01, 015, appendix A, n = 1), lenstronomy's ``TNFW``.

    Parameters
    ----------
    Rs, r_trunc : scale radius and truncation radius, arcsec.
    alpha_Rs : arcsec, deflection at `Rs` of the same halo without truncation.
    """
    dx, dy = x - center_x, y - center_y
    scaled = (torch.sqrt(dx * dx + dy * dy) / Rs).clamp(min=_X_MIN)
    # 4 rho0 Rs = alpha_Rs / (Rs (1 - ln 2)) in units of the critical density.
    slope = alpha_Rs / (Rs * (1 - math.log(2))) * enclosed(scaled, r_trunc / Rs) / scaled.square()
    return slope * dx, slope * dy


def enclosed(x: Tensor, tau: Tensor) -> Tensor:
    """Projected mass of a TNFW halo within x = R / Rs in units of 4 pi rho0 Rs^3, for tau = r_trunc / Rs."""
    t2, root = tau * tau, torch.sqrt(tau * tau + x * x)
    factor = t2 / (t2 + 1).square()
    bracket = (t2 - 1 + 2 * x * x) * _nfw_f(x) + tau * math.pi + (t2 - 1) * torch.log(tau)
    return factor * (bracket + root * ((t2 - 1) / tau * torch.log(x / (root + tau)) - math.pi))


def total(tau: Tensor) -> Tensor:
    """Whole mass of a TNFW halo in units of 4 pi rho0 Rs^3 (Baltz et al. 2009, appendix A)."""
    t2 = tau * tau
    return t2 / (t2 + 1).square() * ((t2 - 1) * torch.log(tau) + tau * math.pi - (t2 + 1))


def string(
    x: Tensor, y: Tensor, theta_E: Tensor, half_length: Tensor, phi: Tensor, center_x: Tensor, center_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Straight string of even line density: the integral of point masses along it, in closed form.

    In complex notation conj(alpha) = theta_E^2 / (2 l) e^(-i phi) ln((w + l) / (w - l)) with w = e^(-i phi) (z - z0).

    Parameters
    ----------
    theta_E : arcsec, Einstein radius of a point of the string's whole mass.
    half_length : arcsec, the l above.
    phi : radians from +x.
    """
    cos, sin = torch.cos(phi), torch.sin(phi)
    dx, dy = x - center_x, y - center_y
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    ahead, behind = u + half_length, u - half_length
    scale = theta_E.square() / (2 * half_length)
    along = 0.5 * scale * torch.log((ahead * ahead + v * v + _TINY) / (behind * behind + v * v + _TINY))
    across = scale * (torch.atan2(v, behind) - torch.atan2(v, ahead))
    return cos * along - sin * across, sin * along + cos * across


def _nfw_f(x: Tensor) -> Tensor:
    """F(x) of an NFW halo: arccosh(1/x) / sqrt(1 - x^2) or arccos(1/x) / sqrt(x^2 - 1), and F(1) = 1."""
    root = torch.sqrt((1 - x * x).abs()).clamp(min=1e-6)
    return torch.where(x < 1, torch.atanh(root.clamp(max=1 - 1e-12)), torch.atan(root)) / root
