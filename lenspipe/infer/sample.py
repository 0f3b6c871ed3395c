"""Sampling: independent emcee ensembles with differential-evolution moves, run until they agree.

emcee: Foreman-Mackey et al. 2013, PASP 125, 306; DE moves: ter Braak 2006, Nelson et al. 2014. emcee's snooker
move is left out: in version 3.1.6 it narrows a unit Gaussian by 4 to 8 %.
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

Floats = NDArray[np.float64]


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
) -> Chains:
    """Draw from `log_prob`.

    Parameters
    ----------
    log_prob : (K, P) -> (K,) log posterior, -inf where impossible, never NaN.
    start : (P,) the optimum.
    covariance : (P, P) Laplace approximation around it, from which the walkers set out.
    bounds : (P,) lowest and highest coordinates at which `log_prob` is finite.
    checkpoint : keeps the chains meanwhile; from what it holds of the same call, the same chains come out.

    Raises
    ------
    CandidateError : where `log_prob` is finite nowhere around `start`.
    """
    walkers = max(config.walkers, 2 * len(start))
    walkers += walkers % 2

    def begin(rng: np.random.Generator, counted: Callable[[Floats], Floats]) -> Floats:
        return _positions(counted, start, covariance, bounds, walkers, rng)

    seeds = np.random.SeedSequence(seed).spawn(config.ensembles)
    ensembles = Ensembles(log_prob, _moves, seeds, begin, checkpoint)
    target = config.burn + config.min_steps
    # What an earlier process looked at and went on from need not be looked at again.
    while target < ensembles.steps:
        target += config.check_every
    while True:
        ensembles.advance(target)
        # A chain that had to grow has also shown that its beginning was not yet typical.
        dropped = max(config.burn, target // 4)
        chains = ensembles.u(dropped)
        result = diagnose(chains)
        kept = target - dropped
        converged = meets_rule(config, kept, result)
        if converged or kept >= config.max_steps:
            break
        target += config.check_every
    return Chains(chains, ensembles.log_prob(dropped), result, converged, ensembles.evaluations)


def meets_rule(config: SamplerConfig, kept: int, found: Diagnostics) -> bool:
    """Whether chains of `kept` steps each may be called converged."""
    long_enough = kept >= config.min_steps and kept >= config.taus * found.tau.max()
    return bool(long_enough and found.rhat.max() < config.rhat)


def _moves() -> list[tuple[Any, float]]:
    return [(emcee.moves.DEMove(), 0.9), (emcee.moves.DEMove(gamma0=1.0), 0.1)]


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
