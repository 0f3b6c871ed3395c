"""Point sources behind a lens: where their images are, how bright, and how late.

A lens is given as a function (x, y) -> (alpha_x, alpha_y) on tensors, arcsec throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lenspipe.lensing.mass import DEFLECTION
from lenspipe.lensing.params import MASS

Deflect = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Lens = Sequence[tuple[str, Sequence[Tensor]]]
"""Profiles by name with their parameters in the order of `lenspipe.lensing.params.MASS`, each a number."""

_STEPS = 25
_TOLERANCE = 1e-11
"""arcsec in the source plane."""
_SAME = 1e-6
"""arcsec; images closer than this are one."""
_FAINTEST = 0.005
"""|mu| below which there is no image to see; it is also the centre of a singular lens, which has none."""


def deflection(lens: Lens) -> Deflect:
    """All profiles of `lens` together."""

    def deflect(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = [DEFLECTION[profile](x, y, *parameters) for profile, parameters in lens]
        return sum(p[0] for p in parts), sum(p[1] for p in parts)  # type: ignore[return-value]

    return deflect


def potential(lens: Lens, x: Tensor, y: Tensor) -> Tensor:
    """Lensing potential in arcsec^2, of profiles that are homogeneous about their centre.

    Then u . alpha = n psi (Euler), where psi grows as |u|^n: n = 1 for SIS and SIE, 3 - gamma for an EPL, 2 for shear
    and convergence. The core of an SIE, 1e-10 arcsec, is neglected.
    """
    result = torch.zeros_like(x)
    for profile, parameters in lens:
        named = dict(zip(MASS[profile], parameters))
        if profile == "EPL":
            degree = 3 - named["gamma"]
        elif profile in _DEGREE:
            degree = torch.as_tensor(_DEGREE[profile])
        else:
            raise ValueError(f"the potential of {profile} has no closed form here")
        alpha_x, alpha_y = DEFLECTION[profile](x, y, *parameters)
        zero = torch.zeros(())
        dx, dy = x - named.get("center_x", zero), y - named.get("center_y", zero)
        result = result + (dx * alpha_x + dy * alpha_y) / degree
    return result


_DEGREE = {"SIS": 1.0, "SIE": 1.0, "SHEAR": 2.0, "CONVERGENCE": 2.0}


def fermat_potential(lens: Lens, x: Tensor, y: Tensor, beta_x: Tensor, beta_y: Tensor) -> Tensor:
    """phi = |theta - beta|^2 / 2 - psi(theta), arcsec^2 (Schneider, Ehlers & Falco 1992, sect. 5.1)."""
    return 0.5 * ((x - beta_x).square() + (y - beta_y).square()) - potential(lens, x, y)


def jacobian(deflect: Deflect, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """d beta_x / dx, d beta_x / dy, d beta_y / dx, d beta_y / dy, by automatic differentiation."""
    with torch.enable_grad():
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        alpha_x, alpha_y = deflect(x, y)
        # Each deflection depends on its own point alone, so the gradient of the sum is that of each.
        xx, xy = torch.autograd.grad(alpha_x.sum(), (x, y), retain_graph=True)
        yx, yy = torch.autograd.grad(alpha_y.sum(), (x, y))
    return 1 - xx, -xy, -yx, 1 - yy


def magnification(deflect: Deflect, x: Tensor, y: Tensor) -> Tensor:
    """Signed magnification of a point: negative where the image is mirrored."""
    xx, xy, yx, yy = jacobian(deflect, x, y)
    return 1 / (xx * yy - xy * yx)


def solve(deflect: Deflect, beta_x: float, beta_y: float, half_width: float, cells: int = 240) -> tuple[Tensor, Tensor]:
    """Images of |mu| > 0.005 within a square of +- `half_width` about the origin, each (I,) float64 in arcsec.

    The square is tiled with triangles; those whose image in the source plane holds the source start a Newton search
    each. A pair of images closer than a cell, hence of magnification far above 100, may be missed.
    """
    axis = torch.linspace(-half_width, half_width, cells + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    alpha_x, alpha_y = deflect(x, y)
    dx, dy = x - alpha_x - beta_x, y - alpha_y - beta_y  # of each corner, as seen from the source
    starts = []
    corners = [(slice(0, -1), slice(0, -1)), (slice(0, -1), slice(1, None)), (slice(1, None), slice(0, -1))]
    opposite = [(slice(1, None), slice(1, None)), *corners[1:]]
    for triangle in (corners, opposite):
        px, py = [dx[c] for c in triangle], [dy[c] for c in triangle]
        turns = [px[i] * py[i - 1] - px[i - 1] * py[i] for i in range(3)]
        inside = torch.stack([t >= 0 for t in turns]).all(0) | torch.stack([t <= 0 for t in turns]).all(0)
        # The turns add up to twice the area in the source plane, which magnifies a cell by the inverse of mu.
        inside &= torch.stack(turns).sum(0).abs() * _FAINTEST < (2 * half_width / cells) ** 2
        starts.append(torch.stack([torch.stack([v[c][inside] for c in triangle]).mean(0) for v in (x, y)]))
    found_x, found_y = torch.cat(starts, dim=1)
    if len(found_x) == 0:
        return found_x, found_y
    found_x, found_y = _newton(deflect, found_x, found_y, beta_x, beta_y, 2 * half_width / cells)
    return _distinct(deflect, found_x, found_y)


def _newton(
    deflect: Deflect, x: Tensor, y: Tensor, beta_x: float, beta_y: float, longest: float
) -> tuple[Tensor, Tensor]:
    """Roots from starts; steps are no longer than `longest`, and starts that lead nowhere are dropped."""
    for _ in range(_STEPS):
        alpha_x, alpha_y = deflect(x, y)
        off_x, off_y = x - alpha_x - beta_x, y - alpha_y - beta_y
        if (torch.hypot(off_x, off_y) < _TOLERANCE).all():
            break
        xx, xy, yx, yy = jacobian(deflect, x, y)
        det = xx * yy - xy * yx
        step_x, step_y = (yy * off_x - xy * off_y) / det, (xx * off_y - yx * off_x) / det
        length = torch.sqrt(step_x * step_x + step_y * step_y)
        short = (longest / length).clamp(max=1.0)
        x, y = x - short * step_x, y - short * step_y
    alpha_x, alpha_y = deflect(x, y)
    good = torch.hypot(x - alpha_x - beta_x, y - alpha_y - beta_y) < _TOLERANCE
    return x[good], y[good]


def _distinct(deflect: Deflect, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    bright = magnification(deflect, x, y).abs() > _FAINTEST
    x, y = x[bright], y[bright]
    keep: list[int] = []
    for i in range(len(x)):
        if all(torch.hypot(x[i] - x[j], y[i] - y[j]) > _SAME for j in keep):
            keep.append(i)
    return x[keep], y[keep]
