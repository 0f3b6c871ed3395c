"""The optimum: lens light, coarse grid, least squares from many starts; and doubt about the masks.

Masks come from a network that errs: it takes neighbours for arcs, and draws their outlines too tight where they
overlap the lens. Both show in what the best model leaves over, and both are mended here, before anything is sampled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from lenspipe.errors import CandidateError, Reason
from lenspipe.infer import starts
from lenspipe.infer.config import SET, FitConfig
from lenspipe.infer.light import HeldLight, fit_gaussians
from lenspipe.infer.likelihood import Likelihood
from lenspipe.infer.objective import Objective
from lenspipe.infer.optimise import Optima
from lenspipe.infer.prepare import Prepared, with_light_error, with_noise_of
from lenspipe.infer.priors import Priors, normal
from lenspipe.infer.subpixels import refined
from lenspipe.lensing.params import LIGHT
from lenspipe.lensing.scene import Scene, build

Floats = NDArray[np.float64]

_BAD_FIT = 1.15
"""Chi-square per pixel above which segmented arcs are suspected to be neighbours. No verdict hangs on it."""
_PRICE = 1.0
"""Cost of leaving a pixel out: the 1/2 that a well modelled one brings, and as much again."""
_EDGE, _BRIGHT, _TRIMS = 3, 3.5, 3
"""Pixels around a mask, and the sigma above which they are added to it; at most so many times."""
OTHER_LIGHTS = ((SET, SET), (SET,), ("SERSIC_ELLIPSE", "SERSIC_ELLIPSE"))
"""Models of the lens light that are held against each other: wrong Einstein radii change with them."""
_REFITS, _GAIN = 3, 5.0
"""So often at most is a held light refitted, and only while it gains this much in log posterior."""
_KEPT = 3
"""Optima that go on after the lens light has been refitted without the source."""


@dataclass(frozen=True)
class Found:
    """The winning attempt.

    Attributes
    ----------
    prepared : its pixels.
    objective : in float64.
    optima : the distinct ones, best first.
    light : the lens light whose shape is held; None where it is sampled.
    other_lights : theta_E that other models of the lens light give, by their name.
    """

    prepared: Prepared
    objective: Objective
    optima: Optima
    light: HeldLight | None = None
    notes: tuple[str, ...] = ()
    evaluations: int = 0
    other_lights: dict[str, float] = field(default_factory=dict)

    @property
    def vector(self) -> Floats:
        """(P,) parameters of the best optimum."""
        return self.objective.priors.physical(self.optima.u[0])

    @property
    def theta_E(self) -> float:
        return self.best("theta_E")

    def best(self, name: str) -> float:
        """A parameter of the best optimum."""
        return float(self.vector[self.objective.priors.names.index(name)])


def search(prepared: Prepared, scene: Scene, config: FitConfig) -> Found:
    """Optimise the `scene` on the pixels of `prepared`.

    Of a scene without lens light the light is held (`lenspipe.infer.light`), and other models of it are tried too.
    Others are tried, where they fit badly, without each segmented arc in turn: a neighbour that the network takes for
    an arc drags the lens model to it. Leaving it out then gains far more than its pixels cost; leaving out a true arc
    gains nothing.

    Raises
    ------
    CandidateError : where no start has a finite likelihood.
    """
    if not scene.lens_light:
        profiles = config.model.lens_light or ()
        found = _with_light_held(prepared, scene, config, profiles)
        others = [other for other in OTHER_LIGHTS if other != profiles] if config.verdict.other_lights else []
        rivals = {" + ".join(other): _with_light_held(prepared, scene, config, other) for other in others}
        evaluations = found.evaluations + sum(rival.evaluations for rival in rivals.values())
        for rival in rivals.values():
            # Where a simpler light fits better, the better one is stuck: its source shows the way.
            if profiles[0] == SET and rival.optima.cost[0] < found.optima.cost[0]:
                found = _refitted(replace(found, evaluations=0), rival, scene, config, len(profiles))
                evaluations += found.evaluations
        radii = {name: rival.theta_E for name, rival in rivals.items()}
        return _settled(replace(found, evaluations=evaluations, other_lights=radii), config)

    found = _with_light_sampled(prepared, scene, config)
    evaluations = found.evaluations
    pixels = found.objective.likelihood.n_data
    if 2 * found.optima.cost[0] > _BAD_FIT * pixels:
        lowest = found.optima.cost[0]
        for (x, y), without in prepared.arcs_left_out():
            attempt = _with_light_sampled(without, scene, config)
            evaluations += attempt.evaluations
            cost = attempt.optima.cost[0] + _PRICE * (pixels - attempt.objective.likelihood.n_data)
            if cost < lowest:
                note = f"the segmented arc at x = {x:.1f}, y = {y:.1f} arcsec is left out: another object's"
                found, lowest = replace(attempt, notes=(note,)), cost
    found = replace(found, evaluations=evaluations)
    for _ in range(_TRIMS):
        wings = _wings(found)
        if not wings.any():
            break
        found = _without(found, wings)
    return _settled(found, config)


def _settled(found: Found, config: FitConfig) -> Found:
    """`found` polished, and to be sampled, with the subpixels and the photon noise that its best model needs.

    A variance that follows the model without the determinant that belongs to it favours bright models, and amplitudes
    weighted by the data's own fluctuations come out faint: sizes and indices of bright galaxies are off by a fifth of a
    sigma.
    """
    likelihood, error = found.objective.likelihood, config.data.subpixel_error
    settled = likelihood
    if error:
        settled = refined(settled, found.vector, error)
    if likelihood.poisson:
        settled = settled.on(with_noise_of(likelihood.data, likelihood.images(found.vector).model))
    if settled is likelihood:
        return found
    objective = Objective(settled, found.objective.priors)
    optima = _polished(objective, found.optima)
    return replace(found, objective=objective, optima=optima, evaluations=found.evaluations + objective.calls)


def _wings(found: Found) -> NDArray[np.bool_]:
    """(H,W) pixels at the edge of other objects that stay too bright under the best model, and those beside them."""
    others = found.prepared.others
    edge = binary_dilation(others, iterations=_EDGE) & ~others
    bright = found.objective.likelihood.significance(torch.as_tensor(found.vector)) > _BRIGHT
    return np.asarray(binary_dilation(bright & edge) & edge)


def _without(found: Found, pixels: NDArray[np.bool_]) -> Found:
    """The optima polished without (H,W) `pixels`, which belong to other objects."""
    prepared = found.prepared.without(pixels)
    objective = Objective(found.objective.likelihood.masked(prepared.imaging.mask), found.objective.priors)
    optima = _polished(objective, found.optima)
    return replace(found, prepared=prepared, objective=objective, optima=optima,
                   evaluations=found.evaluations + objective.calls)  # fmt: skip


def sampled_priors(scene: Scene, config: FitConfig) -> Priors:
    """The priors of a `scene` whose lens light is sampled."""
    return Priors(scene.names, config.priors, config.mass_follows_light, bool(config.sharp))


def _with_light_sampled(prepared: Prepared, scene: Scene, config: FitConfig) -> Found:
    priors = sampled_priors(scene, config)
    free = ["lens_light"] if any(c.per_band for c in scene.lens_light) else []
    profiles = [c.profile for c in scene.lens_light]
    light_scene = build([], [], profiles, scene.sky, joint_centre=False, free=free, bands=scene.bands)
    joint = scene.lens_light[0].columns[-2:] == scene.lens[0].columns[-2:]
    centre = {f"lens_light_{c}": c for c in ("center_x", "center_y")}
    # With a joint centre the light's centre carries the prior of the deflector's.
    aliases = centre if joint else {}
    own = {n: priors.priors[scene.index(aliases.get(n, n))] for n in light_scene.names}
    vector, _, model = starts.lens_light(prepared, light_scene, Priors(light_scene.names, own))
    light = dict(zip(light_scene.names, vector.tolist()))
    light |= {f"lens_light_{e}": starts.mean_of(light_scene, vector, f"lens_light_{e}") for e in ("e1", "e2")}
    light |= {c: starts.mean_of(light_scene, vector, n) for n, c in centre.items()}
    imaging = prepared.without_core((light["center_x"], light["center_y"]), config.data.core or 0.0).imaging
    data = config.data
    if data.light_error:
        imaging = with_light_error(imaging, model, data.light_error)
    likelihood = Likelihood(imaging, scene, supersampling=data.supersampling, marginalise=data.marginalise)
    objective = Objective(likelihood, priors)
    optima = _climb(objective, prepared, light, config)
    return Found(prepared, objective, optima, evaluations=objective.calls)


def _with_light_held(prepared: Prepared, scene: Scene, config: FitConfig, profiles: tuple[str, ...]) -> Found:
    error = config.data.light_error or 0.0
    gaussians = profiles[0] == SET
    light = fit_gaussians(prepared, len(profiles), error) if gaussians else _sersics(prepared, profiles)
    objective = _objective_held(prepared, scene, config, light)
    start = dict(zip(("center_x", "center_y"), light.centre))
    start |= {"lens_light_e1": light.e1, "lens_light_e2": light.e2}
    optima = _climb(objective, prepared, start, config)
    found = Found(prepared, objective, optima, light, evaluations=objective.calls)
    for _ in range(_REFITS if gaussians else 0):
        before = found.optima.cost[0]
        found = _refitted(found, found, scene, config, len(profiles))
        if found.optima.cost[0] > before - _GAIN:
            break
    return found


def _refitted(found: Found, behind: Found, scene: Scene, config: FitConfig, sets: int) -> Found:
    """`found` with its light refitted after the source of `behind` has been subtracted, if that fits better.

    The source is known well enough then: no pixel need be masked for the light's sake. From the shape at hand and anew,
    for a shape may be stuck where a bad source has led it.
    """
    prepared, error = found.prepared, config.data.light_error or 0.0
    source = behind.objective.likelihood.images(behind.vector).source
    kept = Optima(behind.optima.u[:_KEPT], behind.optima.cost[:_KEPT])
    best, evaluations = found, found.evaluations
    for begin in (found.light, None):
        light = fit_gaussians(prepared, sets, error, source, begin)
        objective = _objective_held(prepared, scene, config, light)
        optima = _polished(objective, kept)
        evaluations += objective.calls
        if optima.cost[0] < best.optima.cost[0]:
            best = Found(prepared, objective, optima, light)
    return replace(best, evaluations=evaluations)


def _sersics(prepared: Prepared, profiles: tuple[str, ...]) -> HeldLight:
    scene = build([], [], profiles, sky=True, joint_centre=False)
    vector, layers, model = starts.lens_light(prepared, scene, Priors(scene.names, {}))
    x, y, e1, e2 = (float(vector[scene.index(f"lens_light_{n}")]) for n in ("center_x", "center_y", "e1", "e2"))
    components = [(c.profile, dict(zip(LIGHT[c.profile], vector[list(c.columns)].tolist()))) for c in scene.lens_light]
    return HeldLight((x, y), e1, e2, layers, model, (*components, ("UNIFORM", {})))


def _objective_held(prepared: Prepared, scene: Scene, config: FitConfig, light: HeldLight) -> Objective:
    data = config.data
    declared = dict(config.priors)
    if config.model.joint_centre:
        share = {n: c for n, c in zip(("center_x", "center_y"), light.centre) if n not in declared}
        sigma = config.centre_follows_light
        # Wider bounds would not hold: where the model is wrong, any prior is outweighed.
        declared |= {n: normal(c, sigma, c - 2.5 * sigma, c + 2.5 * sigma) for n, c in share.items()}
    alike = {"e1": light.e1, "e2": light.e2} if config.mass_follows_light else {}
    follow = {n: (v, config.mass_follows_light or 1.0) for n, v in alike.items() if n in scene.names}
    priors = Priors(scene.names, declared, sharp=bool(config.sharp), light=follow)
    imaging = light.onto(prepared.without_core(light.centre, data.core or 0.0).imaging, data.light_error or 0.0)
    likelihood = Likelihood(imaging, scene, supersampling=data.supersampling, marginalise=data.marginalise)
    return Objective(likelihood, priors)


def _climb(objective: Objective, prepared: Prepared, light: dict[str, float], config: FitConfig) -> Optima:
    """From the grid to distinct optima, best first."""
    scene, priors = objective.likelihood.scene, objective.priors
    points = starts.grid(prepared, scene, priors, light, config.search)
    cost = objective.cost(points)
    if cost.min() > 1e11:
        raise CandidateError(Reason.NO_FINITE_START, f"none of {len(points)} starts has a finite likelihood.")
    begin = starts.choose(points, cost, points[:, scene.index("theta_E")], config.search.starts)
    optima = _climbed(objective, begin, config)
    if prepared.estimate is None:
        return optima
    # A climb of their own: starts rest when others have left them behind, and these are to take nothing away.
    drawn = starts.drawn(prepared.estimate, scene, priors, light, config.search.estimated)
    lowest = objective.cost(drawn.reshape(-1, len(scene.names))).reshape(drawn.shape[:2]).argmin(1)
    more = _climbed(objective, drawn[np.arange(len(drawn)), lowest], config)
    u, costs = np.concatenate([optima.u, more.u]), np.concatenate([optima.cost, more.cost])
    order = distinct(u, costs, len(u))
    return Optima(u[order], costs[order])


def _climbed(objective: Objective, begin: Floats, config: FitConfig) -> Optima:
    """From starts to distinct optima, best first."""
    coarse = objective.climb(begin, iterations=12)
    few = distinct(coarse.u, coarse.cost, config.search.finalists)
    return _polished(objective, Optima(coarse.u[few], coarse.cost[few]), iterations=40)


def _polished(objective: Objective, optima: Optima, iterations: int = 20) -> Optima:
    """`optima` climbed further, the distinct ones, best first."""
    fine = objective.climb(optima.u, iterations=iterations)
    order = distinct(fine.u, fine.cost, len(fine.u))
    return Optima(fine.u[order], fine.cost[order])


def distinct(u: Floats, cost: Floats, count: int) -> NDArray[np.intp]:
    """Indices of up to `count` best points, without those that have arrived where a better one already is."""
    kept: list[int] = []
    for i in np.argsort(cost):
        if all(np.abs(u[i] - u[j]).max() > 0.02 for j in kept):
            kept.append(int(i))
        if len(kept) == count:
            break
    return np.array(kept)
