"""N candidates' posteriors side by side: likelihoods stacked, priors as tensors.

Legend: N candidates, K vectors of each, P parameters, R residuals.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenspipe.infer.likelihood import Likelihood
from lenspipe.infer.priors import Priors
from lenspipe.infer.stack import Calls, Stack, bucket


class Problems:
    """Everything in sampled coordinates u, (N, K, P) float64.

    Parameters
    ----------
    memory : bytes that a call's temporaries may take.
    calls : as `Stack` has it.
    """

    def __init__(
        self,
        likelihoods: Sequence[Likelihood],
        priors: Sequence[Priors],
        device: torch.device,
        memory: float,
        calls: Calls | None = None,
    ):
        self.stack, self.device = Stack(likelihoods, device, memory, calls), device
        self.bands = len(likelihoods[0].data.image)

        def stacked(name: str) -> Tensor:
            arrays: list[NDArray[np.generic]] = [getattr(p, name) for p in priors]
            return torch.as_tensor(np.stack(arrays), device=device)

        self.logarithmic = stacked("logarithmic")[:, None]
        self.lower, self.upper = stacked("lower")[:, None], stacked("upper")[:, None]
        self.centre, self.precision = stacked("centre")[:, None], stacked("precision")[:, None]
        self.matrix, self.offset = stacked("matrix").mT, stacked("offset")[:, None]

    def physical(self, u: Tensor) -> Tensor:
        """Parameters in their units."""
        return torch.where(self.logarithmic, torch.where(self.logarithmic, u, 0.0).exp(), u)

    def prior_residuals(self, u: Tensor) -> Tensor:
        """(N, K, P + couplings) normalised; minus half the sum of their squares is the log prior inside the bounds."""
        return torch.cat([(u - self.centre) * self.precision, u @ self.matrix - self.offset], -1)

    def residuals(self, u: Tensor) -> Tensor:
        """(N, K, R) of data and prior, float64: what least squares minimises."""
        data = self.stack.residuals(self.physical(u), non_negative=True)
        return torch.cat([data.double(), self.prior_residuals(u)], -1)

    def cost(self, u: Tensor) -> Tensor:
        """(N, K) half the squared residuals, a part of the vectors at a time."""
        size = self.stack.image[0].numel() * 8 * len(u)
        parts = u.split(max(1, int(self.stack.memory / size)), dim=1)
        return torch.cat([0.5 * self.residuals(part).square().sum(-1) for part in parts], 1)

    def log_posterior(self, u: Tensor) -> Tensor:
        """(N, K), -inf outside the bounds; see `lenspipe.infer.objective.LogPosterior`."""
        inside = ((u >= self.lower) & (u <= self.upper)).all(-1)
        # What is outside is computed too, at the bound, and thrown away: no shape may depend on the values.
        within = u.clamp(self.lower, self.upper)
        vectors = self.physical(within)
        value, _ = self.stack.log_likelihood(vectors, non_negative=True)
        if self.stack.marginalise:
            fluxes = self.stack.scene.unit_fluxes(vectors.flatten(0, 1), self.bands)
            value = value + fluxes.log().sum((-1, -2)).view_as(value)
        value = value - 0.5 * self.prior_residuals(within).square().sum(-1)
        return torch.where(inside, value, -torch.inf)


def alike(likelihood: Likelihood, priors: Priors) -> Hashable:
    """What two candidates must have in common to stand side by side."""
    return bucket(likelihood), len(priors.offset)
