"""What least squares minimises."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lenspipe.infer.likelihood import Likelihood
from lenspipe.infer.priors import Priors

Floats = NDArray[np.float64]


class Objective:
    """Residuals of data and prior in sampled coordinates, (K, P) -> (K, D + P): what least squares minimises."""

    def __init__(self, likelihood: Likelihood, priors: Priors):
        self.likelihood, self.priors, self.calls = likelihood, priors, 0

    def __call__(self, u: Floats) -> Floats:
        self.calls += len(u)
        data = self.likelihood.residuals(torch.as_tensor(self.priors.physical(u))).numpy()
        return np.concatenate([data, self.priors.residuals(u)], axis=1)

    def cost(self, u: Floats) -> Floats:
        """(K,) half the squared residuals, a few at a time: a grid's residuals together would fill the memory."""
        return np.concatenate([0.5 * (self(part) ** 2).sum(1) for part in np.array_split(u, len(u) // 64 + 1)])
