"""Deflection of hundreds of haloes on a fine grid.

A halo's deflection is smooth away from it. So all haloes are summed exactly on a coarse grid and that sum is
interpolated; then, in a window around each halo, the interpolated deflection of this one is replaced by the exact one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lenspipe.lensing.substructure import tnfw
from lenspipe.sim.substructure.haloes import Haloes

_FINE = 8
"""Fine points on a coarse cell's side."""
_REACH = 4
"""Coarse cells from a halo's own to the edge of its window. Beyond, cubic interpolation errs by less than 0.3 %."""
_AT_ONCE = 128
"""Haloes in one tensor: bounds the memory."""


def deflection(haloes: Haloes, n: int, step: float) -> tuple[Tensor, Tensor]:
    """alpha_x, alpha_y on an n x n grid of spacing `step` arcsec about the origin, each (n, n) float64.

    The sheet that the haloes' mass would make if it were spread evenly over their disc is taken off: they are part of
    the host, whose mass the smooth lens already holds.
    """
    cells = math.ceil(n / _FINE)
    # Coarse nodes lie at the cells' corners, one more on each side for the interpolation; the window's reach beyond.
    first = -(n - 1) / 2 * step - step / 2 - _REACH * _FINE * step
    size = cells + 2 * _REACH
    width = _FINE * step
    total = torch.zeros(2, size * _FINE, size * _FINE, dtype=torch.float64)
    nodes = first + (torch.arange(size + 3, dtype=torch.float64) - 1) * width
    coarse = torch.zeros(2, size + 3, size + 3, dtype=torch.float64)
    parameters = [
        torch.as_tensor(getattr(haloes, name)) for name in ("Rs", "alpha_Rs", "r_trunc", "x", "y")
    ]  # (M,) each
    offsets = (torch.arange(2 * _REACH * _FINE, dtype=torch.float64) + 0.5) * step
    window_nodes = (torch.arange(2 * _REACH + 3, dtype=torch.float64) - 1) * width
    window = _interpolator(2 * _REACH)
    for start in range(0, len(haloes.x), _AT_ONCE):
        some = [p[start : start + _AT_ONCE, None, None] for p in parameters]
        coarse += torch.stack([a.sum(0) for a in tnfw(nodes[None, None, :], nodes[None, :, None], *some)])
        corner = [  # of each window, in coarse cells
            (torch.floor((place.flatten() - first) / width).long() - _REACH + 1).clamp(0, size - 2 * _REACH)
            for place in (some[3], some[4])
        ]
        left, low = (first + c[:, None] * width for c in corner)
        exact = tnfw((left + offsets)[:, None, :], (low + offsets)[:, :, None], *some)
        rough = tnfw((left + window_nodes)[:, None, :], (low + window_nodes)[:, :, None], *some)
        parts = torch.stack([e - window @ r @ window.mT for e, r in zip(exact, rough)], dim=1)
        for part, i, j in zip(parts, (corner[0] * _FINE).tolist(), (corner[1] * _FINE).tolist()):
            total[:, j : j + part.shape[1], i : i + part.shape[2]] += part
    whole = _interpolator(size)
    total += whole @ coarse @ whole.mT
    inner = slice(_REACH * _FINE, _REACH * _FINE + n)
    axis = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * step
    x, y = axis[None, :], axis[:, None]
    sheet = haloes.kappa * (haloes.radius**2 / (x * x + y * y).clamp(min=haloes.radius**2))
    return total[0, inner, inner] - sheet * x, total[1, inner, inner] - sheet * y


@lru_cache
def _interpolator(cells: int) -> Tensor:
    """(cells * _FINE, cells + 3): cubic Lagrange interpolation from nodes to fine points."""
    t = (np.arange(_FINE) + 0.5) / _FINE
    weights = np.stack(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        ]
    )
    matrix = np.zeros((cells, _FINE, cells + 3))
    for cell in range(cells):
        matrix[cell, :, cell : cell + 4] = weights.T
    return torch.as_tensor(matrix.reshape(cells * _FINE, cells + 3))
