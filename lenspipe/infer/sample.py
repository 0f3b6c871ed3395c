"""Sampling: independent emcee ensembles with differential-evolution moves, run until they agree.

emcee: Foreman-Mackey et al. 2013, PASP 125, 306; DE moves: ter Braak 2006, Nelson et al. 2014. emcee's snooker
move is left out: in version 3.1.6 it narrows a unit Gaussian by 4 to 8 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import emcee
import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import CandidateError, Reason
from lenspipe.infer.config import SamplerConfig
from lenspipe.infer.diagnostics import Diagnostics, diagnose

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
) -> Chains:
    """Draw from `log_prob`.

    Parameters
    ----------
    log_prob : (K, P) -> (K,) log posterior, -inf where impossible, never NaN.
    start : (P,) the optimum.
    covariance : (P, P) Laplace approximation around it, from which the walkers set out.
    bounds : (P,) lowest and highest coordinates at which `log_prob` is finite.

    Raises
    ------
    CandidateError : where `log_prob` is finite nowhere around `start`.
    """
    walkers = max(config.walkers, 2 * len(start))
    walkers += walkers % 2
    counter = _Counter(log_prob)
    ensembles = []
    for sequence in np.random.SeedSequence(seed).spawn(config.ensembles):
        moves = [(emcee.moves.DEMove(), 0.9), (emcee.moves.DEMove(gamma0=1.0), 0.1)]
        sampler = emcee.EnsembleSampler(walkers, len(start), counter, vectorize=True, moves=moves)
        rng = np.random.default_rng(sequence)
        legacy = np.random.RandomState(rng.integers(2**32))
        positions = _positions(counter, start, covariance, bounds, walkers, rng)
        sampler.random_state = legacy.get_state()
        state = emcee.State(positions, random_state=legacy.get_state())
        ensembles.append((sampler, state))

    total = 0
    target = config.burn + config.min_steps
    while True:
        ensembles = [(s, s.run_mcmc(state, target - total, skip_initial_state_check=True)) for s, state in ensembles]
        total = target
        # A chain that had to grow has also shown that its beginning was not yet typical.
        dropped = max(config.burn, total // 4)
        chains = np.stack([s.get_chain(discard=dropped) for s, _ in ensembles])
        result = diagnose(chains)
        kept = total - dropped
        converged = bool(
            kept >= config.min_steps and result.rhat.max() < config.rhat and kept >= config.taus * result.tau.max()
        )
        if converged or kept >= config.max_steps:
            break
        target = total + config.check_every
    log_probs = np.stack([s.get_log_prob(discard=dropped) for s, _ in ensembles])
    return Chains(chains, log_probs, result, converged, counter.calls)


class _Counter:
    """`log_prob` that counts its vectors."""

    def __init__(self, log_prob: Callable[[Floats], Floats]):
        self.log_prob, self.calls = log_prob, 0

    def __call__(self, u: Floats) -> Floats:
        self.calls += len(u)
        return self.log_prob(u)


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
