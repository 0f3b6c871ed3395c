"""Linear amplitudes of a few light components by weighted least squares, batched.

Legend: K vectors, B bands, L components, M = A^T W A (K,B,L,L), R = A^T W d (K,B,L).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

_RANK = 1e-6
"""Directions of a template basis below this share of the largest singular value say nothing."""
_MAX_CONDITION = 5 / 2.220446049250313e-16
"""lenstronomy solves only where the condition number of M is below this; otherwise all amplitudes are 0."""


def solve(M: Tensor, R: Tensor) -> Tensor:
    """Amplitudes M^-1 R of shape (K,B,L), zero where M is singular by lenstronomy's rule. In float64."""
    return _solved(M.double(), R.double(), torch.ones(R.shape[-1], dtype=torch.bool, device=R.device))


def solve_non_negative(M: Tensor, R: Tensor, positive: int) -> Tensor:
    """The least-squares amplitudes with the first `positive` components >= 0 (the rest, a sky, free).

    Exact: every subset of components is tried, and the feasible one that explains most chi-square is kept;
    meant for the few components of a parametric model. All subsets at once: a device need not be asked which will do.
    """
    M, R, device = M.double(), R.double()[..., None, :], M.device
    subsets = torch.arange(2**positive, device=device)
    chosen = (subsets[:, None] >> torch.arange(positive, device=device)) & 1 > 0
    free = chosen.new_ones(len(subsets), M.shape[-1] - positive)
    found = _solved(M[..., None, :, :], R, torch.cat([chosen, free], 1))
    feasible = (found[..., :positive] >= 0).all(-1, keepdim=True)
    found = torch.where(feasible, found, 0.0)
    best = (found * R).sum(-1).argmax(-1)
    return torch.take_along_dim(found, best[..., None, None], -2)[..., 0, :]


def non_negative_but_last(
    layers: NDArray[np.floating], image: NDArray[np.floating], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(B,T) least-squares amplitudes of (B,T,H,W) images, many of them: none negative but that of the last, a sky.

    Parameters
    ----------
    image, weight : (B,H,W); `weight` is 1 / sigma, 0 where a pixel does not count.
    """
    result = np.zeros(layers.shape[:2])
    for b, w in enumerate(weight):
        used = w > 0
        columns = layers[b][:, used] * w[used]
        normal, right = columns @ columns.T, columns @ (image[b][used] * w[used])
        sky = normal[:-1, -1] / normal[-1, -1]
        inner = normal[:-1, :-1] - np.outer(sky, normal[-1, :-1])
        scale = np.sqrt(np.diag(inner).clip(1e-300))
        scaled = inner / np.outer(scale, scale)
        # An image without used pixels, or almost another one, must not stop the factorisation.
        lower = np.linalg.cholesky(scaled + 1e-9 * np.eye(len(scaled)))
        reduced = np.linalg.solve(lower, (right[:-1] - sky * right[-1]) / scale)
        result[b, :-1] = nnls(lower.T, reduced, maxiter=2000)[0] / scale
        result[b, -1] = (right[-1] - normal[-1, :-1] @ result[b, :-1]) / normal[-1, -1]
    return result


def orthonormal(templates: NDArray[np.floating], root_weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B,T,H,W) images Q_t that span the (B,T,H,W) `templates` where the (B,H,W) `root_weight` is not 0.

    They are orthonormal under the weight root_weight^2, 0 without weight, and 0 beyond the rank of a band.
    """
    basis = np.zeros(templates.shape)
    for b, root in enumerate(root_weight):
        used = root > 0
        columns = (templates[b][:, used] * root[used]).astype(np.float64).T
        norm = np.linalg.norm(columns, axis=0)
        left, values, _ = np.linalg.svd(columns[:, norm > 0] / norm[norm > 0], full_matrices=False)
        left = left[:, values > _RANK * values.max(initial=0.0)]
        basis[b, : left.shape[1], used] = left / root[used][:, None]
    return basis


def log_determinant(M: Tensor) -> Tensor:
    """Sum over bands of ln |det M|, (K,): what marginalising over flat amplitudes subtracts, halved, from logL."""
    rows = _eliminated(M.double())
    return torch.stack([row[..., k] for k, row in enumerate(rows)]).abs().log().sum((0, -1))


def _solved(M: Tensor, R: Tensor, used: Tensor) -> Tensor:
    """(..., L) amplitudes M^-1 R of the `used` components (..., L) as if there were no others, which get 0.

    All 0 where M is singular: trace(M) trace(M^-1) is its condition number, or at most L^2 times that.
    """
    count = M.shape[-1]
    one = torch.eye(count, dtype=M.dtype, device=M.device)
    part = torch.where(used[..., :, None] & used[..., None, :], M, one)
    right = torch.where(used, R, 0.0)
    rows = _eliminated(torch.cat([part, right[..., None], one.expand_as(part)], -1))
    pivots = torch.stack([row[..., k] for k, row in enumerate(rows)], -1)
    inverse = torch.stack([row[..., count + 1 :].square() for row in rows]) / pivots.movedim(-1, 0)[..., None]
    diagonals = torch.stack([part.diagonal(dim1=-2, dim2=-1), inverse.sum(0)])
    regular = (pivots > 0).all(-1) & (torch.where(used, diagonals, 0.0).sum(-1).prod(0) < _MAX_CONDITION)
    found: list[Tensor] = []
    for k in reversed(range(count)):
        known = sum(rows[k][..., k + 1 + j] * value for j, value in enumerate(found))
        found.insert(0, (rows[k][..., count] - known) / pivots[..., k])
    return torch.where(regular[..., None] & used, torch.stack(found, -1), 0.0)


def _eliminated(A: Tensor) -> list[Tensor]:
    """Rows of (..., L, >= L) `A`, symmetric at first, after Gauss's elimination: plain arithmetic, which a compiler
    fuses and no device waits for. A matrix of normal equations needs no pivoting."""
    rows = []
    for k in range(A.shape[-2]):
        rows.append(A[..., 0, :])
        A = A[..., 1:, :] - A[..., 1:, k : k + 1] / rows[k][..., None, k : k + 1] * rows[k][..., None, :]
    return rows
