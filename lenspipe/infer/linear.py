"""Linear amplitudes of a few light components by weighted least squares, batched.

Legend: K vectors, B bands, L components, M = A^T W A (K,B,L,L), R = A^T W d (K,B,L).
"""

from __future__ import annotations

from itertools import combinations

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
    M, R = M.double(), R.double()
    regular = _well_conditioned(M)
    safe = torch.where(regular[..., None, None], M, torch.eye(M.shape[-1], dtype=M.dtype, device=M.device))
    # A pivot may vanish all the same where M spans the range of the type: no error, but no amplitudes either.
    found, failure = torch.linalg.solve_ex(safe, R)
    return torch.where((regular & (failure == 0))[..., None], found, torch.zeros_like(R))


def solve_non_negative(M: Tensor, R: Tensor, positive: int) -> Tensor:
    """The least-squares amplitudes with the first `positive` components >= 0 (the rest, a sky, free).

    Exact: every subset of components is tried, and the feasible one that explains most chi-square is kept;
    meant for the few components of a parametric model.
    """
    count = M.shape[-1]
    best = torch.zeros_like(R, dtype=torch.float64)
    gain = torch.zeros(R.shape[:-1], dtype=torch.float64, device=R.device)
    free = tuple(range(positive, count))
    # The full set first: where it is feasible it is the answer, and that is almost everywhere near a good fit.
    for size in range(positive, -1, -1):
        for subset in combinations(range(positive), size):
            active = [*subset, *free]
            if not active:
                continue
            index = torch.tensor(active, device=M.device)
            trial = torch.zeros_like(best)
            trial[..., index] = solve(M[..., index[:, None], index], R[..., index])
            explained = (trial * R).sum(-1)
            better = (trial[..., :positive] >= 0).all(-1) & (explained > gain)
            best = torch.where(better[..., None], trial, best)
            gain = torch.where(better, explained, gain)
        if size == positive and bool((gain > 0).all()):
            break
    return best


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
    """Sum over bands of ln det M, (K,): what marginalising over flat amplitudes subtracts, halved, from logL."""
    return torch.linalg.slogdet(M.double()).logabsdet.sum(-1)


def _well_conditioned(M: Tensor) -> Tensor:
    """lenstronomy's test; the eigenvalues themselves are computed only where a cheap bound cannot decide."""
    count = M.shape[-1]
    trace = torch.diagonal(M, dim1=-2, dim2=-1).sum(-1)
    determinant = torch.linalg.det(M)
    # largest <= trace and smallest >= det / (trace / (n-1))^(n-1), so condition <= trace^n / (det (n-1)^(n-1)).
    bound = trace**count / (determinant.clamp(min=0) * max(count - 1, 1) ** (count - 1))
    regular = (determinant > 0) & (bound < _MAX_CONDITION)
    unsure = ~regular & torch.isfinite(M).all(-1).all(-1) & torch.isfinite(trace) & (trace > 0)
    if bool(unsure.any()):
        values = torch.linalg.svdvals(M[unsure])
        regular[unsure] = values[..., 0] < _MAX_CONDITION * values[..., -1]
    return regular
