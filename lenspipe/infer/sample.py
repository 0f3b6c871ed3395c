"""Sampling: independent emcee ensembles, run until they agree.

Half the steps are differential evolution, which takes the posterior as it is, half are Crank-Nicolson steps about a
Gaussian like it: where that likeness is good, a walker forgets where it was several times sooner.

emcee: Foreman-Mackey et al. 2013, PASP 125, 306; differential evolution: ter Braak 2006, Nelson et al. 2014;
Crank-Nicolson steps about a Gaussian: Rudolf & Sprungk 2018. emcee's snooker move is left out: in version 3.1.6 it
narrows a unit Gaussian by 4 to 8 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import emcee
import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import CandidateError, Reason
from lenspipe.infer.checkpoint import NOWHERE, Checkpoint
from lenspipe.infer.config import SamplerConfig
from lenspipe.infer.diagnostics import Diagnostics, diagnose
from lenspipe.infer.ensembles import Ensembles
from lenspipe.infer.objective import LogPosterior
from lenspipe.infer.shared import SharedEnsembles
from lenspipe.infer.together import program

Floats = NDArray[np.float64]

SHARES = (0.45, 0.05, 0.5)
"""Of the steps: differential evolution, its jumps between modes, Crank-Nicolson."""


@dataclass(frozen=True)
class Chains:
    """Kept draws `u` (C, T, K, P) in sampled coordinates, `log_prob` (C, T, K), and what they are worth."""

    u: Floats
    log_prob: Floats
    diagnostics: Diagnostics
    converged: bool
    evaluations: int


def sample(
    log_prob: Callable[[Floats], Floats],
    start: Floats,
    covariance: Floats,
    bounds: tuple[Floats, Floats],
    config: SamplerConfig,
    seed: int,
    checkpoint: Checkpoint = NOWHERE,
    doubted: Callable[[], bool] = lambda: False,
) -> Chains:
    """Draw from `log_prob`.

    Parameters
    ----------
    log_prob : (K, P) -> (K,) log posterior, -inf where impossible, never NaN.
    start : (P,) the optimum.
    covariance : (P, P) Laplace approximation around it, from which the walkers set out.
    bounds : (P,) lowest and highest coordinates at which `log_prob` is finite.
    checkpoint : keeps the chains meanwhile; from what it holds of the same call, the same chains come out.
    doubted : whether the verdict has something against `start` already; asked after `max_steps_suspect` kept steps.

    Raises
    ------
    CandidateError : where `log_prob` is finite nowhere around `start`.
    """
    walkers = max(config.walkers, 2 * len(start))
    walkers += walkers % 2

    def begin(rng: np.random.Generator, counted: Callable[[Floats], Floats]) -> Floats:
        return _positions(counted, start, covariance, bounds, walkers, rng)

    gaussian = CrankNicolson(start, covariance)

    def moves() -> list[tuple[Any, float]]:
        kinds = (emcee.moves.DEMove(), emcee.moves.DEMove(gamma0=1.0), gaussian)
        return list(zip(kinds, SHARES))

    seeds = np.random.SeedSequence(seed).spawn(config.ensembles)
    shared = program.get()
    ensembles: Ensembles | SharedEnsembles
    if shared is not None and isinstance(log_prob, LogPosterior):
        ensembles = SharedEnsembles(shared, log_prob, gaussian, seeds, begin, checkpoint)
    else:
        ensembles = Ensembles(log_prob, moves, seeds, begin, checkpoint)
    if config.burn:
        ensembles.advance(config.burn)
        gaussian.learn(ensembles.u(config.burn // 2, config.burn))
    target, soonest = config.burn + config.min_steps, max(config.min_steps, config.max_steps_suspect)
    while True:
        ensembles.advance(target)
        # A chain that had to grow has also shown that its beginning was not yet typical.
        dropped = max(config.burn, target // 4)
        chains = ensembles.u(dropped, target)
        gaussian.learn(chains)
        if target < ensembles.steps:
            # An earlier process looked at these and went on.
            target += config.check_every
            continue
        result = diagnose(chains)
        kept = target - dropped
        converged = meets_rule(config, kept, result)
        if converged or kept >= config.max_steps or (kept >= soonest and doubted()):
            break
        target += config.check_every
    return Chains(chains, ensembles.log_prob(dropped), result, converged, ensembles.evaluations)


def meets_rule(config: SamplerConfig, kept: int, found: Diagnostics) -> bool:
    """Whether chains of `kept` steps each may be called converged."""
    long_enough = kept >= config.min_steps and kept >= config.taus * found.tau.max()
    return bool(long_enough and found.rhat.max() < config.rhat)


class CrankNicolson(emcee.moves.red_blue.RedBlueMove):
    """Most of the way to an independent draw from a Gaussian, from what is left of where the walker was.

    That leaves the Gaussian as it is, so only the posterior's ratio to it decides whether the step is taken.
    """

    def __init__(self, mean: Floats, covariance: Floats):
        super().__init__()
        self.mean, self.root = mean, np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)

    def learn(self, chains: Floats) -> None:
        """Take the Gaussian from (..., P) draws, those of all ensembles."""
        draws = chains.reshape(-1, chains.shape[-1])
        self.mean, self.root = draws.mean(0), np.asarray(np.linalg.cholesky(np.cov(draws.T)), dtype=np.float64)

    def get_proposal(
        self, sample: Floats, complement: list[Floats], random: np.random.RandomState
    ) -> tuple[Floats, Floats]:
        share = random.uniform(0.5, 1.0, size=(len(sample), 1))
        before = sample - self.mean
        after = np.sqrt(1 - share**2) * before + share * random.standard_normal(sample.shape) @ self.root.T
        return self.mean + after, self._energy(after) - self._energy(before)

    def _energy(self, offsets: Floats) -> Floats:
        """(K,) minus the Gaussian's log density at (K, P) `offsets` from its mean, up to a constant."""
        return np.asarray(0.5 * (np.linalg.solve(self.root, offsets.T) ** 2).sum(0))


def _positions(
    log_prob: Callable[[Floats], Floats],
    start: Floats,
    covariance: Floats,
    bounds: tuple[Floats, Floats],
    count: int,
    rng: np.random.Generator,
) -> Floats:
    """(count, P) draws around `start` at which `log_prob` is finite, mirrored at the bounds.

    Nearer to it than the posterior is wide: differential evolution widens an ensemble quickly, but a walker that
    sets out in a side mode of no weight may stay there for thousands of steps.
    """
    lower, upper = bounds
    root = np.linalg.cholesky(covariance)
    found: list[Floats] = []
    for shrink in (0.3, 0.3, 0.2, 0.1, 0.03, 0.01):
        draws = start + shrink * rng.standard_normal((2 * count, len(start))) @ root.T
        draws = np.clip(lower + np.abs(draws - lower), lower, upper)
        draws = np.clip(upper - np.abs(upper - draws), lower, upper)
        found.extend(draws[np.isfinite(log_prob(draws))])
        if len(found) >= count:
            return np.array(found[:count])
    raise CandidateError(Reason.NO_FINITE_START, "the posterior is not finite around the optimum.")
