"""How many subpixels each pixel needs: few where surface brightness is smooth, many where it peaks.

The mean over a few subpixels errs most where a cusp of the lens light or the peak of a lensed source falls between
them. Its error then changes with every shift of the model by a part of a subpixel: on the same 2x2 subpixels
everywhere the likelihood is jagged, and posteriors come out up to a fifth too narrow.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import grey_dilation

from lenspipe.infer.likelihood import Likelihood
from lenspipe.lensing.grid import patches
from lenspipe.lensing.scene import Scene

Floats = NDArray[np.float64]

FACTORS = (4, 8, 16, 32)
"""Subpixels on a refined pixel's side; squares of these are multiples of a register's lanes."""
_MARGIN = 3
"""Pixels across the square in which a need of more subpixels is spread: the model moves while it is sampled."""


def needed(
    scene: Scene, vector: Floats, weights: Floats, pixel_scale: float, error: float, base: int = 1
) -> NDArray[np.int64]:
    """(H,W) subpixels per axis that each pixel needs, one of `FACTORS`, or 0 where `base` are enough.

    Parameters
    ----------
    vector : (P,) parameters of the model.
    weights : (L,B,H,W) each light's amplitude over the noise.
    error : that a pixel's mean may have before blurring, in the noise's sigma, as its next refinement shows it.
    """
    shape = weights.shape[-2:]
    found = np.zeros(shape, dtype=np.int64)
    rows, columns = np.nonzero(np.ones(shape))
    before = _means(scene, vector, rows, columns, base, shape, pixel_scale)
    for factor in (f for f in FACTORS if f > base):
        now = _means(scene, vector, rows, columns, factor, shape, pixel_scale)
        off = np.abs((now - before) * weights[..., rows, columns]).max((0, 1)) > error
        rows, columns, before = rows[off], columns[off], now[..., off]
        if not len(rows):
            break
        found[rows, columns] = factor
    return np.asarray(grey_dilation(found, (_MARGIN, _MARGIN)))


def refined(likelihood: Likelihood, vector: Floats, error: float) -> Likelihood:
    """`likelihood` with the subpixels that its model of the data at a (P,) `vector` needs."""
    found = likelihood.solve(torch.as_tensor(vector)[None], non_negative=True)
    amplitudes = found.amplitudes[0, :, : likelihood.n_positive].numpy()
    sigma = torch.sqrt(likelihood.variance(found.model)[0]).double().numpy()
    weights = amplitudes.T[:, :, None, None] / sigma
    data = likelihood.data
    return likelihood.refined(
        needed(likelihood.scene, vector, weights, data.pixel_scale, error, likelihood.supersampling)
    )


def _means(
    scene: Scene,
    vector: Floats,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    factor: int,
    shape: tuple[int, int],
    pixel_scale: float,
) -> Floats:
    """(L, B or 1, n) mean of each light over n pixels' subpixels, at unit amplitude."""
    parts = []
    for some in np.array_split(np.arange(len(rows)), max(1, len(rows) * factor**2 // 2**18)):
        chosen = np.zeros(shape, dtype=np.int64)
        chosen[rows[some], columns[some]] = factor
        (patch,) = patches(chosen, pixel_scale)
        means = scene.light_layers(torch.as_tensor(vector)[None], patch.x, patch.y).mean(-1)[0]
        parts.append(means if scene.bands else means[:, None])
    return np.asarray(torch.cat(parts, -1).numpy())
