"""Deflection angles of the mass profiles, lenstronomy's definitions.

Legend: parameters broadcast against the coordinates, e.g. (K, 1, 1) against (1, W) and (H, 1). Each function takes
x, y and then the profile's parameters in the order of `lenspipe.lensing.params.MASS`, and returns alpha_x, alpha_y in
arcsec, of the broadcast shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_CORE = 1e-10
"""arcsec; softening of an SIE, as in lenstronomy: an NIE with this core."""
_TINY = 1e-30
"""Under a root, for a finite gradient at e = 0; far below the rounding of any ellipticity."""
_EPL_R_MIN = 1e-9
"""arcsec; the elliptical radius of an EPL is raised to it in the power law, as in lenstronomy."""
EPL_FLATTEST = 0.9
"""Largest |e| of an EPL, q = 0.053: beyond, its series would need too many terms."""


def axis_ratio(e1: Tensor, e2: Tensor) -> Tensor:
    """q = (1 - c) / (1 + c) of the ellipticity modulus c = |e|, which is capped at 0.9999."""
    c = torch.sqrt(e1 * e1 + e2 * e2 + _TINY).clamp(max=0.9999)
    return (1 - c) / (1 + c)


def sis(x: Tensor, y: Tensor, theta_E: Tensor, center_x: Tensor, center_y: Tensor) -> tuple[Tensor, Tensor]:
    """Singular isothermal sphere: theta_E towards the centre, 0 at the centre itself."""
    dx, dy = x - center_x, y - center_y
    scale = theta_E * torch.rsqrt((dx * dx + dy * dy).clamp(min=_TINY))
    return scale * dx, scale * dy


def sie(
    x: Tensor, y: Tensor, theta_E: Tensor, e1: Tensor, e2: Tensor, center_x: Tensor, center_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Singular isothermal ellipsoid: `nie` without a core.

    theta_E is the product-averaged Einstein radius: 2 kappa = theta_E / sqrt(q x^2 + y^2 / q) on the major axes.
    """
    return nie(x, y, theta_E, e1, e2, torch.zeros_like(theta_E), center_x, center_y)


def nie(
    x: Tensor,
    y: Tensor,
    theta_E: Tensor,
    e1: Tensor,
    e2: Tensor,
    s_scale: Tensor,
    center_x: Tensor,
    center_y: Tensor,
) -> tuple[Tensor, Tensor]:
    """Non-singular isothermal ellipsoid (Keeton & Kochanek 1998, ApJ 495, 157, eqs. 33 to 36).

    2 kappa = theta_E / sqrt(s_scale^2 + q x^2 + y^2 / q) on the major axes; the core is at least 1e-10 arcsec.
    """
    q = axis_ratio(e1, e2)
    root_q = torch.sqrt(q)
    # The nearly round limit: 1 - q must not vanish in the arithmetic of the dtype. lenstronomy's value in float64.
    above, stand_in = (1 - 1e-10, 0.99999999) if theta_E.dtype == torch.float64 else (0.9995, 0.9995)
    q = torch.where(q > above, stand_in, q)
    cos, sin = _major_axis(e1, e2)
    b, s, f = theta_E * root_q, s_scale.clamp(min=_CORE) / root_q, torch.sqrt(1 - q * q)
    dx, dy = x - center_x, y - center_y
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    psi = torch.sqrt(q * q * (s * s + u * u) + v * v)
    along = b / f * torch.atan(f * u / (psi + s))
    across = b / f * torch.atanh(f * v / (psi + q * q * s))
    return cos * along - sin * across, sin * along + cos * across


def epl(
    x: Tensor,
    y: Tensor,
    theta_E: Tensor,
    gamma: Tensor,
    e1: Tensor,
    e2: Tensor,
    center_x: Tensor,
    center_y: Tensor,
) -> tuple[Tensor, Tensor]:
    """Elliptical power law (Tessore & Metcalf 2015, A&A 580, A79, eqs. 22, 23 and 29), NaN beyond `EPL_FLATTEST`.

    2 kappa = (3 - gamma) (theta_E / sqrt(q x^2 + y^2 / q))^(gamma - 1) on the major axes. With z = R e^(i phi), where
    x and y are stretched until the ellipse is a circle, the deflection is (b / R)^t R times a power series in
    -f e^(2 i phi), f = (1 - q) / (1 + q) = |e|. The series is summed until its rest is below 1e-13 (1e-8 in float32).
    """
    f = torch.sqrt(e1 * e1 + e2 * e2 + _TINY)
    q, t = (1 - f) / (1 + f), gamma - 1
    cos, sin = _major_axis(e1, e2)
    dx, dy = x - center_x, y - center_y
    u, v = q * (cos * dx + sin * dy), cos * dy - sin * dx
    squared = (u * u + v * v).clamp(min=_EPL_R_MIN**2)
    cos2, sin2 = (u * u - v * v) / squared, 2 * u * v / squared
    # The sum over a_n e^(2 i n phi) by Clenshaw's recurrence: two real operations a term.
    twice, last, before = 2 * cos2, torch.zeros_like(cos2), torch.zeros_like(cos2)
    for coefficient in reversed(epl_coefficients(t, f)):
        last, before = torch.addcmul(coefficient - before, twice, last), last
    real, imaginary = last - cos2 * before, sin2 * before
    # (b / R)^t through logarithms, with b^2 > 0: a Einstein radius of 0 deflects nothing.
    b2 = (theta_E * theta_E * q).clamp(min=_TINY)
    scale = 2 / (1 + q) * torch.exp(0.5 * t * (torch.log(b2) - torch.log(squared)))
    along, across = scale * (u * real - v * imaginary), scale * (u * imaginary + v * real)
    valid = torch.where(f <= EPL_FLATTEST, 1.0, math.nan).to(f.dtype)
    along, across = along * valid, across * valid
    return cos * along - sin * across, sin * along + cos * across


def epl_coefficients(t: Tensor, f: Tensor) -> list[Tensor]:
    """a_n of the EPL's series, each of the shape of `f`: a_n / a_(n-1) = -f (2n - 2 + t) / (2n + 2 - t).

    As many as the flattest lens of the batch needs.
    """
    flattest = min(float(torch.nan_to_num(f.detach(), nan=0.0).amax()), EPL_FLATTEST)
    rounding = 1e-13 if f.dtype == torch.float64 else 1e-8
    # |a_n| < f^n for 0 < t < 2, so the rest after N terms is below f^N / (1 - f).
    count = max(math.ceil(math.log(rounding * (1 - flattest)) / math.log(max(flattest, 1e-4))), 2)
    result = [torch.ones_like(t * f)]
    for n in range(1, count):
        result.append(result[-1] * (-f * ((2 * n - 2 + t) / (2 * n + 2 - t))))
    return result


def shear(x: Tensor, y: Tensor, gamma1: Tensor, gamma2: Tensor) -> tuple[Tensor, Tensor]:
    """External shear about the origin of the coordinates: alpha = [[g1, g2], [g2, -g1]] (x, y)."""
    return gamma1 * x + gamma2 * y, gamma2 * x - gamma1 * y


def convergence(x: Tensor, y: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
    """A sheet of constant convergence about the origin of the coordinates: alpha = kappa (x, y)."""
    return kappa * x, kappa * y


DEFLECTION: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "SIE": sie,
    "NIE": nie,
    "SIS": sis,
    "EPL": epl,
    "SHEAR": shear,
    "CONVERGENCE": convergence,
}


def _major_axis(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
    """cos(phi), sin(phi) of the major axis: half-angle formulae, no trigonometry, finite gradients at e = 0."""
    modulus = torch.sqrt(e1 * e1 + e2 * e2 + _TINY)
    cos2, sin2 = e1 / modulus, e2 / modulus
    # The larger of the two from cos(2 phi), the smaller from sin(2 phi): neither loses digits to a difference.
    large = torch.sqrt((1 + cos2.abs()) / 2)
    small = sin2.abs() / (2 * large)
    norm = torch.rsqrt(large * large + small * small)
    large, small = large * norm, small * norm
    flat, sign = cos2 >= 0, torch.where(e2 < 0, -1.0, 1.0).to(e2.dtype)
    return torch.where(flat, large, small), torch.where(flat, small, large) * sign
