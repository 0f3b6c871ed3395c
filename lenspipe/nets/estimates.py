"""What is done with a network's Gaussians: their likelihood, averages over turns, calibration, scores, units.

Gaussians are those of `lenspipe.nets.estimator`: (N, 7) means ordered as `DEFLECTOR`, lengths in pixels, theta_E by its
natural logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from lenspipe.nets import compat  # noqa: F401  (before torchmetrics)
from lenspipe.nets.estimator import Estimator
from lenspipe.nets.turns import TURNS, Turn
from lenspipe.types import DEFLECTOR

from torchmetrics import Metric  # isort: skip

Floats = NDArray[np.float64]
GROUPS = {"center": (0, 1), "theta_E": (2,), "ellipticity": (3, 4), "shear": (5, 6)}
"""Components that are alike: a turn of the image exchanges them."""
LEVELS = (0.68, 0.95)
_WITHIN = tuple(float(ndtri(0.5 + level / 2)) for level in LEVELS)
"""Sigmas to either side that hold these parts of a Gaussian."""
_RADIUS = DEFLECTOR.index("theta_E")
_P = len(DEFLECTOR)


def log_density(truth: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """(N,) ln of the density of (N, 7) `truth`, of Gaussians with the precision ``factor^T factor``."""
    whitened = (factor @ (truth - mean)[..., None])[..., 0]
    volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return volume - 0.5 * whitened.square().sum(-1) - 0.5 * _P * math.log(2 * math.pi)


def covariance_of(factor: Tensor) -> Tensor:
    """(N, 7, 7) f8, the inverse of ``factor^T factor``."""
    factor = factor.double()
    root = torch.linalg.solve_triangular(factor, torch.eye(_P, dtype=factor.dtype, device=factor.device), upper=False)
    return root @ root.mT


def factor_of(covariance: Tensor) -> Tensor:
    """(N, 7, 7) f8, a lower triangular W with ``W^T W`` the inverse of `covariance`."""
    root = torch.linalg.cholesky(covariance.double())
    return torch.linalg.solve_triangular(root, torch.eye(_P, dtype=root.dtype, device=root.device), upper=False)


@torch.inference_mode()
def estimate(net: Estimator, image: Tensor, masks: Tensor | None, flips: bool) -> tuple[Floats, Floats]:
    """Means (N, 7) and covariances (N, 7, 7) of images (N, B, H, W) in physical units.

    Parameters
    ----------
    flips : take mean and covariance of the mixture of all eight turns' Gaussians.
    """
    means, covariances = [], []
    for turn in TURNS if flips else (Turn(),):
        back = torch.as_tensor(turn.matrix().T)
        mean, factor = net(turn.image(image), None if masks is None else turn.image(masks))
        means.append(mean.double().cpu() @ back.T)
        covariances.append(back @ covariance_of(factor).cpu() @ back.T)
    stack = torch.stack(means)
    middle = stack.mean(0)
    apart = stack - middle
    total = torch.stack(covariances).mean(0) + torch.einsum("tni,tnj->nij", apart, apart) / len(stack)
    return middle.numpy(), total.numpy()


def fit_scales(mean: Floats, covariance: Floats, truth: Floats) -> dict[str, float]:
    """For each of `GROUPS` the factor on sigma with which 68 and 95 % of these objects lie where so many should.

    The geometric mean of the two factors: held-out objects are few, and errors not quite Gaussian.
    """
    pulls = np.abs(truth - mean) / _sigma(covariance)
    return {
        name: math.exp(
            np.mean([math.log(max(np.quantile(pulls[:, columns], p), 1e-6) / s) for p, s in zip(LEVELS, _WITHIN)])
        )
        for name, columns in GROUPS.items()
    }


def calibrated(covariance: Floats, scales: dict[str, float]) -> Floats:
    """`covariance` with each group's sigma multiplied by its scale; correlations stay."""
    factors = np.ones(_P)
    for name, columns in GROUPS.items():
        factors[list(columns)] = scales[name]
    return covariance * np.outer(factors, factors)


class Coverage(Metric):
    """How good Gaussians are, over all objects seen: `compute` names the figures."""

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2 + 3 * _P, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, factor: Tensor, truth: Tensor) -> None:
        """(N, 7), (N, 7, 7) and (N, 7), as in `log_density`."""
        mean, factor, truth = mean.double(), factor.double(), truth.double()
        density = log_density(truth, mean, factor).sum()
        off = truth - mean
        pulls = off.abs() / covariance_of(factor).diagonal(dim1=-2, dim2=-1).sqrt()
        counts = [off.square().sum(0), *((pulls < width).double().sum(0) for width in _WITHIN)]
        self.sums += torch.cat([torch.stack([density.new_tensor(len(off)), density]), *counts])

    def compute(self) -> dict[str, Tensor]:
        """``log_density``, the mean; for each of `GROUPS` ``rms_NAME`` (pixels; of theta_E relative) and
        ``coverage68_NAME``, ``coverage95_NAME``."""
        number, density = self.sums[:2]
        squares, *inside = (self.sums[2:] / number).reshape(3, _P)
        found = {"log_density": density / number}
        for name, columns in GROUPS.items():
            found[f"rms_{name}"] = squares[list(columns)].mean().sqrt()
            for level, part in zip(LEVELS, inside):
                found[f"coverage{round(100 * level)}_{name}"] = part[list(columns)].mean()
        return found


def in_pixels(truth: Floats, pixel_scale: float) -> Floats:
    """(N, 7) parameters in arcsec, theta_E as it is, to what the network learns."""
    result = np.asarray(truth, np.float64).copy()
    result[:, GROUPS["center"]] /= pixel_scale
    result[:, _RADIUS] = np.log(result[:, _RADIUS] / pixel_scale)
    return result


def in_arcsec(mean: Floats, covariance: Floats, pixel_scale: float) -> tuple[Floats, Floats]:
    """Gaussians with lengths in arcsec, theta_E by its logarithm still."""
    factors = np.ones(_P)
    factors[list(GROUPS["center"])] = pixel_scale
    moved = mean * factors
    moved[:, _RADIUS] += math.log(pixel_scale)
    return moved, covariance * np.outer(factors, factors)


def _sigma(covariance: Floats) -> Floats:
    return np.asarray(np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1)))


def joined(parts: Iterable[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """The Gaussians of batches one after the other."""
    means, covariances = zip(*parts)
    return np.concatenate(means), np.concatenate(covariances)
