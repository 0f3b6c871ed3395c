"""The optimum: lens light, coarse grid, least squares from many starts; and doubt about the masks.

Masks come from a network that errs: it takes neighbours for arcs, and draws their outlines too tight where they
overlap the lens. Both show in what the best model leaves over, and both are mended here, before anything is sampled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from lenspipe.errors import CandidateError, Reason
from lenspipe.infer import starts
from lenspipe.infer.config import FitConfig
from lenspipe.infer.likelihood import Likelihood
from lenspipe.infer.objective import Objective
from lenspipe.infer.optimise import Optima, levenberg_marquardt
from lenspipe.infer.prepare import Prepared, with_light_error
from lenspipe.infer.priors import Priors
from lenspipe.lensing.scene import Scene

Floats = NDArray[np.float64]

_BAD_FIT = 1.15
"""Chi-square per pixel above which segmented arcs are suspected to be neighbours. No verdict hangs on it."""
_PRICE = 1.0
"""Cost of leaving a pixel out: the 1/2 that a well modelled one brings, and as much again."""

_EDGE, _BRIGHT, _TRIMS = 3, 3.5, 3
"""Pixels around a mask, and the sigma above which they are added to it; at most so many times."""


@dataclass(frozen=True)
class Found:
    """The winning attempt: its pixels, its objective (float64) and the distinct optima, best first."""

    prepared: Prepared
    objective: Objective
    optima: Optima
    notes: tuple[str, ...]
    evaluations: int


def search(prepared: Prepared, scene: Scene, priors: Priors, config: FitConfig) -> Found:
    """Optimise on the pixels of `prepared`; where that fits badly, also without each segmented arc in turn.

    A neighbour that the network takes for an arc drags the lens model to it. Leaving it out then gains far more than
    its pixels cost; leaving out a true arc gains nothing.

    Raises
    ------
    CandidateError : where no start has a finite likelihood.
    """
    objective, optima = _attempt(prepared, scene, priors, config)
    best, evaluations = (prepared, objective, optima), objective.calls
    notes: tuple[str, ...] = ()
    pixels = objective.likelihood.n_data
    if 2 * optima.cost[0] > _BAD_FIT * pixels:
        lowest = optima.cost[0]
        for arc, without in prepared.arcs_left_out():
            objective, optima = _attempt(without, scene, priors, config)
            evaluations += objective.calls
            cost = optima.cost[0] + _PRICE * (pixels - objective.likelihood.n_data)
            if cost < lowest:
                best, lowest = (without, objective, optima), cost
                notes = (
                    f"the segmented arc at x = {arc[0]:.1f}, y = {arc[1]:.1f} arcsec is left out: another object's",
                )
    found = Found(*best, notes, evaluations)
    for _ in range(_TRIMS):
        wings = _wings(found)
        if not wings.any():
            break
        found = _without(found, wings)
    return found


def _wings(found: Found) -> NDArray[np.bool_]:
    """(H,W) pixels at the edge of other objects that stay too bright under the best model, and those beside them."""
    others = found.prepared.others
    edge = binary_dilation(others, iterations=_EDGE) & ~others
    vector = found.objective.priors.physical(found.optima.u[0])
    bright = found.objective.likelihood.significance(torch.as_tensor(vector)) > _BRIGHT
    return np.asarray(binary_dilation(bright & edge) & edge)


def _without(found: Found, pixels: NDArray[np.bool_]) -> Found:
    """The optima polished without (H,W) `pixels`, which belong to other objects."""
    prepared = found.prepared.without(pixels)
    priors = found.objective.priors
    objective = Objective(found.objective.likelihood.masked(prepared.imaging.mask), priors)
    fine = levenberg_marquardt(objective, found.optima.u, priors.lower, priors.upper, iterations=20)
    order = distinct(fine.u, fine.cost, len(fine.u))
    optima = Optima(fine.u[order], fine.cost[order])
    return replace(found, prepared=prepared, objective=objective, optima=optima,
                   evaluations=found.evaluations + objective.calls)  # fmt: skip


def _attempt(prepared: Prepared, scene: Scene, priors: Priors, config: FitConfig) -> tuple[Objective, Optima]:
    light, light_model = starts.lens_light(prepared, scene, priors)
    imaging, data = prepared.imaging, config.data
    if data.light_error:
        imaging = with_light_error(imaging, light_model, data.light_error)
    likelihood = Likelihood(imaging, scene, supersampling=data.supersampling, marginalise=data.marginalise)
    objective = Objective(likelihood, priors)
    points = starts.grid(prepared, scene, priors, light, config.search)
    cost = objective.cost(points)
    if cost.min() > 1e11:
        raise CandidateError(Reason.NO_FINITE_START, f"none of {len(points)} starts has a finite likelihood.")
    begin = starts.choose(points, cost, points[:, scene.index("theta_E")], config.search.starts)
    lower, upper = priors.lower, priors.upper
    coarse = levenberg_marquardt(objective, begin, lower, upper, iterations=12)
    few = distinct(coarse.u, coarse.cost, config.search.finalists)
    fine = levenberg_marquardt(objective, coarse.u[few], lower, upper, iterations=40)
    order = distinct(fine.u, fine.cost, len(few))
    return objective, Optima(fine.u[order], fine.cost[order])


def distinct(u: Floats, cost: Floats, count: int) -> NDArray[np.intp]:
    """Indices of up to `count` best points, without those that have arrived where a better one already is."""
    kept: list[int] = []
    for i in np.argsort(cost):
        if all(np.abs(u[i] - u[j]).max() > 0.02 for j in kept):
            kept.append(int(i))
        if len(kept) == count:
            break
    return np.array(kept)
