"""What least squares minimises."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lenspipe.infer.likelihood import Likelihood
from lenspipe.infer.optimise import Optima, levenberg_marquardt
from lenspipe.infer.priors import Priors
from lenspipe.infer.together import program

Floats = NDArray[np.float64]


class LogPosterior:
    """(K, P) sampled coordinates -> (K,) log posterior, -inf outside the prior; fluxes are not negative.

    Amplitudes are integrated over flat in flux. Flat in the surface brightness at the half-light radius, which is what
    the determinant alone stands for, would weigh a source of radius R by R^-2 in each band.
    """

    def __init__(self, likelihood: Likelihood, priors: Priors):
        self.likelihood, self.priors = likelihood, priors

    def __call__(self, u: Floats) -> Floats:
        likelihood, priors = self.likelihood, self.priors
        result = priors.log_prior(u)
        inside = np.isfinite(result)
        if inside.any():
            vectors = torch.as_tensor(priors.physical(u[inside]))
            result[inside] += likelihood.non_negative(vectors).numpy()
            if likelihood.marginalise:
                fluxes = likelihood.scene.unit_fluxes(vectors, len(likelihood.data.image))
                result[inside] += fluxes.log().sum((-1, -2)).numpy()
        return result


class Objective:
    """Residuals of data and prior in sampled coordinates, (K, P) -> (K, D + P): what least squares minimises."""

    def __init__(self, likelihood: Likelihood, priors: Priors):
        self.likelihood, self.priors, self.calls = likelihood, priors, 0

    def __call__(self, u: Floats) -> Floats:
        self.calls += len(u)
        data = self.likelihood.residuals(torch.as_tensor(self.priors.physical(u))).numpy()
        return np.concatenate([data, self.priors.residuals(u)], axis=1)

    def climb(self, start: Floats, iterations: int = 20, tolerance: float = 0.02) -> Optima:
        """Least squares from (S, P) `start`; see `levenberg_marquardt`."""
        shared = program.get()
        if shared is None:
            return levenberg_marquardt(self, start, self.priors.lower, self.priors.upper, iterations, tolerance)
        optima, calls = shared.climb(self, start, iterations, tolerance)
        self.calls += calls
        return optima

    def cost(self, u: Floats) -> Floats:
        """(K,) half the squared residuals, a few at a time: a grid's residuals together would fill the memory."""
        shared = program.get()
        if shared is not None:
            self.calls += len(u)
            return shared.cost(self, u)
        return np.concatenate([0.5 * (self(part) ** 2).sum(1) for part in np.array_split(u, len(u) // 64 + 1)])
