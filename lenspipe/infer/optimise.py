"""Batched Levenberg-Marquardt with finite differences: many starts climb together.

Legend: S starts, P parameters, D residuals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEP = 1e-4
"""Forward-difference step in sampled coordinates: far above float64 noise, far below a sigma."""
LONGEST = 0.5
"""A single step moves no coordinate farther than this."""
SLOW = 0.05
"""Of what it is behind the best start, a start must gain this share in a step to be worth another one."""
FIRST_DAMPING, TRIALS = 1e-2, 3
"""Of each start; so many steps, ever more damped, are tried with one Jacobian."""


@dataclass(frozen=True)
class Optima:
    """Where the starts ended: `u` (S, P), `cost` (S,) = half the sum of squared residuals."""

    u: Floats
    cost: Floats


def levenberg_marquardt(
    residuals: Callable[[Floats], Floats],
    start: Floats,
    lower: Floats,
    upper: Floats,
    iterations: int = 20,
    tolerance: float = 0.02,
) -> Optima:
    """Minimise half the squared residuals from each of (S, P) `start`, inside the bounds (Marquardt 1963).

    Parameters
    ----------
    residuals : (K, P) -> (K, D), in float64.
    iterations : at most so many Jacobians per start.
    tolerance : a start that gains less than this in cost, three times running, rests; so does one that is far behind
        the best and gains little of that.
    """
    u = np.clip(start, lower, upper)
    r = residuals(u)
    cost = 0.5 * (r**2).sum(-1)
    damping = np.full(len(u), FIRST_DAMPING)
    idle = np.zeros(len(u), dtype=int)
    for _ in range(iterations):
        active = np.flatnonzero(idle < 3)
        if not len(active):
            break
        curvature, gradient = normal_equations(residuals, u[active], r[active], lower, upper)
        # A coordinate that leans on its bound is out of the game, or it would spoil the steps of the others.
        held = ((u[active] <= lower) & (gradient > 0)) | ((u[active] >= upper) & (gradient < 0))
        gradient[held] = 0
        curvature[held[:, :, None] | held[:, None, :]] = 0
        diagonal = np.einsum("spp->sp", curvature)
        gained = np.zeros(len(active))
        pending = np.arange(len(active))
        for _ in range(TRIALS):
            damped = curvature[pending].copy()
            extra = diagonal[pending] * damping[active[pending], None] + 1e-9
            np.einsum("spp->sp", damped)[...] += extra
            step = np.clip(-np.linalg.solve(damped, gradient[pending][..., None])[..., 0], -LONGEST, LONGEST)
            trial = np.clip(u[active[pending]] + step, lower, upper)
            r_trial = residuals(trial)
            cost_trial = 0.5 * (r_trial**2).sum(-1)
            better = cost_trial < cost[active[pending]]
            index = active[pending[better]]
            gained[pending[better]] = cost[index] - cost_trial[better]
            u[index], r[index], cost[index] = trial[better], r_trial[better], cost_trial[better]
            damping[active[pending]] *= np.where(better, 0.2, 8.0)
            pending = pending[~better]
            if not len(pending):
                break
        np.clip(damping, 1e-8, 1e8, out=damping)
        enough = np.maximum(tolerance, SLOW * (cost[active] - cost.min()))
        idle[active] = np.where(gained < enough, idle[active] + 1, 0)
    return Optima(u, cost)


def normal_equations(
    residuals: Callable[[Floats], Floats], u: Floats, r: Floats, lower: Floats, upper: Floats
) -> tuple[Floats, Floats]:
    """J^T J (S, P, P) and J^T r (S, P) at (S, P) `u` with residuals `r` (S, D), by differences away from the bounds."""
    S, P = u.shape
    step = np.where(u + STEP > upper, -STEP, STEP)
    shifted = u[:, None, :] + np.eye(P) * step[:, :, None]
    # One start at a time: the Jacobians of all at once would fill the memory for large images.
    curvature, gradient = np.empty((S, P, P)), np.empty((S, P))
    for s in range(S):
        jacobian = (residuals(shifted[s]) - r[s]) / step[s][:, None]
        curvature[s] = jacobian @ jacobian.T
        gradient[s] = jacobian @ r[s]
    return curvature, gradient
