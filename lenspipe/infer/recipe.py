"""``preset: reference``: a particle swarm and stretch moves, as lenstronomy's users run them, on this likelihood.

For comparisons of like with like: same algorithm, same number of evaluations, lenstronomy's likelihood (amplitudes
maximised, negative fluxes punished). Legend: N particles, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import emcee
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import truncnorm

from lenspipe.errors import CandidateError, Reason
from lenspipe.infer.checkpoint import Checkpoint
from lenspipe.infer.config import FitConfig
from lenspipe.infer.diagnostics import diagnose
from lenspipe.infer.ensembles import Ensembles
from lenspipe.infer.likelihood import Likelihood
from lenspipe.infer.objective import Objective
from lenspipe.infer.optimise import Optima
from lenspipe.infer.prepare import Prepared
from lenspipe.infer.priors import Priors
from lenspipe.infer.sample import Chains, meets_rule
from lenspipe.infer.search import Found, sampled_priors
from lenspipe.lensing.scene import Scene

Floats = NDArray[np.float64]

_PULL = 1.193
"""Weight of the swarm's best place."""
_INERTIA = (0.5, 1.0)
"""Between these, drawn anew for every step and coordinate, lies the share of its speed that a particle keeps."""
_PART, _FITNESS, _NORM = 0.7, 1e-3, 1e-2
"""The swarm stops early where this part of it lies within so much of the best, in log posterior and in distance."""
BALL = 0.1
"""Walkers set out this share of the swarm's first half-width from its best place."""


def as_given(config: FitConfig) -> FitConfig:
    """`config` with lenstronomy's likelihood: amplitudes maximised, all light sampled, no error of its model."""
    data = config.data.model_copy(update={"marginalise": False, "light_error": 0.0})
    return config.model_copy(update={"sharp": False, "data": data})


def search(prepared: Prepared, scene: Scene, config: FitConfig, seed: int) -> Found:
    """The best place that the swarm finds, as the one optimum there is.

    Raises
    ------
    CandidateError : where the likelihood is finite nowhere that the swarm came.
    """
    data, recipe = config.data, config.recipe
    priors = sampled_priors(scene, config)
    exact = Likelihood(prepared.imaging, scene, supersampling=data.supersampling, marginalise=data.marginalise)
    quick = exact if data.precision == "float64" else exact.to(torch.float32)
    lower, upper = first_box(prepared, priors)
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(2)[0])
    log_prob = log_posterior(quick, priors)
    best, value, evaluations = swarm(log_prob, lower, upper, recipe.particles, recipe.iterations, rng)
    if not np.isfinite(value):
        raise CandidateError(Reason.NO_FINITE_START, f"the swarm found no finite likelihood in {evaluations} tries.")
    objective = Objective(exact, priors)
    return Found(
        prepared=prepared,
        objective=objective,
        optima=Optima(best[None], objective.cost(best[None])),
        evaluations=evaluations,
    )


def sample(likelihood: Likelihood, found: Found, config: FitConfig, seed: int, checkpoint: Checkpoint) -> Chains:
    """One ensemble of stretch moves around the swarm's best place; as many steps as the recipe says, no rule stops it.

    The stretch move: Goodman & Weare 2010, CAMCoS 5, 65.
    """
    priors, recipe = found.objective.priors, config.recipe
    lower, upper = first_box(found.prepared, priors)
    best, sigma = found.optima.u[0], BALL * (upper - lower) / 2
    walkers = max(recipe.walkers, 2 * len(best))
    walkers += walkers % 2

    def begin(rng: np.random.Generator, _: Callable[[Floats], Floats]) -> Floats:
        a, b = (priors.lower - best) / sigma, (priors.upper - best) / sigma
        shape = (walkers, len(best))
        return np.asarray(truncnorm.rvs(a, b, loc=best, scale=sigma, size=shape, random_state=rng))

    seeds = np.random.SeedSequence(seed).spawn(2)[1:]
    ensembles = Ensembles(
        log_posterior(likelihood, priors), lambda: [(emcee.moves.StretchMove(), 1.0)], seeds, begin, checkpoint
    )
    ensembles.advance(recipe.burn + recipe.steps)
    chains = ensembles.u(recipe.burn)
    result = diagnose(chains)
    converged = meets_rule(config.sampler, recipe.steps, result)
    return Chains(chains, ensembles.log_prob(recipe.burn), result, converged, ensembles.evaluations)


def swarm(
    log_prob: Callable[[Floats], Floats],
    lower: Floats,
    upper: Floats,
    particles: int,
    iterations: int,
    rng: np.random.Generator,
) -> tuple[Floats, float, int]:
    """Particle swarm (Kennedy & Eberhart 1995) as lenstronomy 1.14 runs it.

    v <- w v + 1.193 r (swarm's best - x), with w between 0.5 and 1 and r between 0 and 1 drawn for each coordinate;
    particles set out at rest, uniformly between `lower` and `upper` (P,), and may leave that box, whose middle is the
    first best place. (lenstronomy's rule has a third term, towards a particle's own best place; in 1.14 that place is
    always where the particle is, so the term is zero.)

    Returns
    -------
    best : (P,); its `log_prob`; the number of evaluations.
    """
    shape = (particles, len(lower))
    x, v = rng.uniform(lower, upper, shape), np.zeros(shape)
    best = (lower + upper) / 2
    best_value = float(log_prob(best[None])[0])
    value = log_prob(x)
    for i in range(iterations + 1):
        if value.max() > best_value:
            best, best_value = x[value.argmax()].copy(), float(value.max())
        if i == iterations or _gathered(x, value, best, best_value):
            break
        inertia = rng.uniform(*_INERTIA, shape)
        v = inertia * v + _PULL * rng.random(shape) * (best - x)
        x = x + v
        value = log_prob(x)
    return best, best_value, 1 + particles * (i + 1)


def _gathered(x: Floats, value: Floats, best: Floats, best_value: float) -> bool:
    order = np.argsort(-value)[: int(_PART * len(x))]
    near = abs(best_value - value[order[1:]].mean()) < _FITNESS
    return bool(near and np.linalg.norm(x[order] - best, axis=1).max() < _NORM)


def first_box(prepared: Prepared, priors: Priors) -> tuple[Floats, Floats]:
    """Where the swarm sets out, (P,) each: one sigma of a prior to either side, all of a flat one.

    With masks, theta_E within one standard deviation of the segmented arc's mean distance from the lens, and the lens
    within a pixel of where it was segmented.
    """
    centre, half = (priors.lower + priors.upper) / 2, (priors.upper - priors.lower) / 2
    normal = priors.precision > 0
    centre, half = (
        np.where(normal, priors.centre, centre),
        np.where(normal, 1 / np.where(normal, priors.precision, 1), half),
    )
    lower, upper = np.maximum(centre - half, priors.lower), np.minimum(centre + half, priors.upper)
    scale = prepared.imaging.pixel_scale
    hints = {}
    if prepared.lens is not None:
        hints = {name: (at - scale, at + scale) for name, at in zip(("center_x", "center_y"), prepared.centre)}
    if prepared.source is not None and (prepared.source > 0.5).sum() > 1:
        rows, columns = np.nonzero(prepared.source > 0.5)
        height, width = prepared.imaging.shape
        x, y = (columns - (width - 1) / 2) * scale, (rows - (height - 1) / 2) * scale
        distance = np.hypot(x - prepared.centre[0], y - prepared.centre[1])
        spread = max(float(distance.std()), scale)
        hints["theta_E"] = (max(float(distance.mean()) - spread, scale), float(distance.mean()) + spread)
    for name, ends in hints.items():
        if name in priors.names:
            p = priors.names.index(name)
            low, high = (float(np.log(end)) if priors.logarithmic[p] else end for end in ends)
            if priors.lower[p] < high and low < priors.upper[p]:
                lower[p], upper[p] = max(low, priors.lower[p]), min(high, priors.upper[p])
    return lower, upper


def log_posterior(likelihood: Likelihood, priors: Priors) -> Callable[[Floats], Floats]:
    """(K, P) sampled coordinates -> (K,), -inf outside the prior; each band with a negative flux is punished."""

    def value(u: Floats) -> Floats:
        result = priors.log_prior(u)
        inside = np.isfinite(result)
        if inside.any():
            result[inside] += likelihood(torch.as_tensor(priors.physical(u[inside]))).numpy()
        return result

    return value
