"""One candidate, from pixels to a judged posterior.

Search for the optimum -> Laplace approximation -> independent ensembles -> diagnostics, derived quantities, verdict.
The optimum is float64; sampling is float32 where the config says so.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from lenspipe.errors import LenspipeError
from lenspipe.infer import derived, recipe
from lenspipe.infer.checkpoint import NOWHERE, Checkpoint, kept
from lenspipe.infer.config import FitConfig
from lenspipe.infer.derived import Quantity
from lenspipe.infer.foreign import Foreign
from lenspipe.infer.light import HeldLight
from lenspipe.infer.likelihood import Likelihood, using
from lenspipe.infer.objective import LogPosterior, Objective
from lenspipe.infer.optimise import normal_equations
from lenspipe.infer.prepare import Prepared, default_window, prepare, seeing
from lenspipe.infer.priors import Priors
from lenspipe.infer.reference import Lenstronomy
from lenspipe.infer.sample import Chains, sample
from lenspipe.infer.search import Found, search
from lenspipe.infer.starts import searched
from lenspipe.infer.together import program
from lenspipe.infer.verdict import Evidence, Verdict, judge
from lenspipe.lensing.light import half_light
from lenspipe.lensing.params import without_band
from lenspipe.lensing.scene import Scene, build
from lenspipe.types import Cutout, Estimate, Masks, Posterior

Floats = NDArray[np.float64]

_DERIVED_DRAWS = 200
FINER = 3
"""Subpixels per pixel and axis of the magnification map."""


@dataclass(frozen=True)
class Images:
    """The best model on the window, in flux per pixel.

    Attributes
    ----------
    data, sigma, mask, model, source, lens_light : (B,H,W).
    inverse_magnification : (3H,3W), det A on a grid three times finer.
    source_plane : (B,h,w) the source unlensed, in the square `source_extent` = (left, right, bottom, top), arcsec.
    """

    data: Floats
    sigma: Floats
    mask: NDArray[np.bool_]
    model: Floats
    source: Floats
    lens_light: Floats
    inverse_magnification: Floats
    source_plane: Floats
    source_extent: tuple[float, float, float, float]

    @property
    def arc(self) -> NDArray[np.bool_]:
        """(B,H,W) pixels in which the modelled source is brighter than the noise."""
        return self.source > self.sigma

    @property
    def arc_signal(self) -> float:
        """S/N of the modelled source over all fitted pixels."""
        return float(np.sqrt(((self.source / self.sigma)[self.mask] ** 2).sum()))

    @property
    def chi2_arc(self) -> float:
        """Mean squared residual of the fitted pixels of the arc; NaN where there are none."""
        arc = self.arc & self.mask
        return float((self._residual[arc] ** 2).mean()) if arc.any() else float("nan")

    def reduced_chi2(self, free: int) -> float:
        """Of all fitted pixels, with so many free parameters, amplitudes included."""
        return float((self._residual[self.mask] ** 2).sum() / max(int(self.mask.sum()) - free, 1))

    @property
    def _residual(self) -> Floats:
        return (self.data - self.model) / self.sigma


@dataclass(frozen=True)
class Fit:
    """All that is known about one candidate in the end; `config` with every choice made.

    `cpu_seconds` are this process's, of all and of the search alone; what an earlier one spent is in `seconds` only.
    """

    config: FitConfig
    scene: Scene | Foreign
    priors: Priors
    prepared: Prepared
    posterior: Posterior
    chains: Chains
    images: Images
    derived: dict[str, Quantity]
    verdict: Verdict
    reduced_chi2: float
    chi2_arc: float
    log_likelihood: float
    lenstronomy_difference: float
    light: HeldLight | None
    other_lights: dict[str, float]
    notes: tuple[str, ...]
    evaluations: int
    seconds: float
    cpu_seconds: float
    search_cpu_seconds: float
    engine: str
    device: str = "cpu"

    def to_source(self, points: Floats) -> Floats:
        """(K, 2) image-plane positions x, y in arcsec, ray-shot to the source plane by the best model."""
        x, y = torch.as_tensor(points.T[:, None, :])
        beta = self.scene.ray_shoot(torch.as_tensor(self.posterior.best)[None], x, y)
        return np.stack([b[0, 0].numpy() for b in beta], axis=1)


def fit(
    cutout: Cutout,
    masks: Masks | None,
    config: FitConfig,
    seed: int,
    redshifts: tuple[float, float] | None = None,
    checkpoint: Checkpoint = NOWHERE,
    estimate: Estimate | None = None,
) -> Fit:
    """Fit `config`'s lens model to a cutout.

    Parameters
    ----------
    masks : class probabilities; None to start from the image alone.
    seed : of the sampler; the same candidate, config and seed give the same result on the same machine.
    redshifts : of lens and source, for velocity dispersion and mass.
    checkpoint : keeps how far the fit has come; with what an earlier process left of the same fit it goes on.
    estimate : of the deflector, by a network; further starts are drawn from it. It is no prior.

    Raises
    ------
    CandidateError : where there is nothing to fit or no start with a finite likelihood.
    LenspipeError : where the engine has no such model.
    """
    foreign = config.model.foreign
    if config.engine == "lenstronomy" or (config.engine == "auto" and foreign):
        from lenspipe.infer.fit_foreign import fit_foreign

        return fit_foreign(cutout, masks, config, seed, redshifts, checkpoint)
    if foreign:
        raise LenspipeError(f"engine: {config.engine}: it has no {foreign[0]}; auto and lenstronomy have.")
    if config.fixed:
        raise LenspipeError(f"fixed.{next(iter(config.fixed))}: only engine: lenstronomy holds parameters.")
    with using(config.engine):
        return _fit(cutout, masks, config, seed, redshifts, checkpoint, estimate)


def _fit(
    cutout: Cutout,
    masks: Masks | None,
    config: FitConfig,
    seed: int,
    redshifts: tuple[float, float] | None,
    checkpoint: Checkpoint,
    estimate: Estimate | None,
) -> Fit:
    begun, cpu_begun = time.perf_counter() - checkpoint.spent, time.process_time()
    as_reference = config.preset == "reference"
    if as_reference:
        config = recipe.as_given(config)
    config = config.resolve(seeing(cutout), default_window(cutout, masks))
    model, data = config.model, config.data
    light = () if model.light_held else model.lens_light or ()
    sky = bool(model.sky) and not model.light_held
    scene = build(model.lens, model.source, light, sky, model.joint_centre, model.free_bands, cutout.bands)

    def look() -> Found:
        starts_there = estimate if config.search.estimated and not as_reference else None
        prepared = prepare(cutout, masks, data, starts_there)
        return recipe.search(prepared, scene, config, seed) if as_reference else search(prepared, scene, config)

    found = kept(checkpoint, look)
    cpu_searched = time.process_time()
    prepared, objective, optima = found.prepared, found.objective, found.optima
    exact, priors = objective.likelihood, objective.priors
    quick = exact if data.precision == "float64" else exact.to(torch.float32)

    @cache
    def doubted() -> bool:
        """Whether the search's own optimum would not be good, had the sampler converged."""
        vector = priors.physical(optima.u[0])
        _, difference = _compare(exact, vector, found.light)
        evidence = _evidence(found, config, optima.u[0], _images(exact, vector), difference, converged=True)
        return judge(evidence, config.verdict).status != "good"

    if as_reference:
        chains = recipe.sample(quick, found, config, seed, checkpoint)
    else:
        log_prob, bounds = LogPosterior(quick, priors), (priors.lower, priors.upper)
        covariance = _laplace(objective, optima.u[0])
        chains = sample(log_prob, optima.u[0], covariance, bounds, config.sampler, seed, checkpoint, doubted)
    best = _polish(objective, optima.u[0], chains)

    vector = priors.physical(best)
    samples = priors.physical(chains.u)
    posterior = Posterior(
        names=scene.names,
        units=scene.units,
        samples=samples.reshape(len(samples), -1, samples.shape[-1]),
        log_prob=chains.log_prob.reshape(len(samples), -1),
        best=vector,
    )
    images = _images(exact, vector)
    free = len(vector) + len(scene.amplitudes) * len(images.data) + exact.n_templates
    value, difference = _compare(exact, vector, found.light)
    shared = program.get()
    return Fit(
        config=config,
        scene=scene,
        priors=priors,
        prepared=prepared,
        posterior=posterior,
        chains=chains,
        images=images,
        derived=_derived(quick, samples, cutout, config, redshifts, seed),
        verdict=judge(_evidence(found, config, best, images, difference, chains.converged), config.verdict),
        reduced_chi2=images.reduced_chi2(free),
        chi2_arc=images.chi2_arc,
        log_likelihood=value,
        lenstronomy_difference=difference,
        light=found.light,
        other_lights=found.other_lights,
        notes=found.notes,
        evaluations=found.evaluations + chains.evaluations,
        seconds=time.perf_counter() - begun,
        cpu_seconds=time.process_time() - cpu_begun,
        search_cpu_seconds=cpu_searched - cpu_begun,
        engine="torch" if shared else quick.engine,
        device=shared.device.type if shared else "cpu",
    )


def _evidence(
    found: Found, config: FitConfig, u: Floats, images: Images, difference: float, converged: bool
) -> Evidence:
    """What the verdict looks at, of the model at (P,) sampled coordinates `u` and its `images`."""
    likelihood, priors, optima = found.objective.likelihood, found.objective.priors, found.optima
    scene, vector = likelihood.scene, priors.physical(u)
    near = optima.cost - optima.cost[0] < config.verdict.near_best
    return Evidence(
        at_bound=at_bound(u, priors),
        searched=searched(found.prepared, config.search),
        magnification=float(derived.photometry(likelihood, vector[None]).magnification[0]),
        theta_E=float(vector[scene.index("theta_E")]),
        source_radius=_source_radius(scene, vector),
        near_best=priors.physical(optima.u[near])[:, scene.index("theta_E")],
        mass_light=mass_light(scene, vector, found.light),
        other_lights=found.other_lights,
        arc_signal=images.arc_signal,
        mask_overlap=overlap(found.prepared.source, images),
        converged=converged,
        lenstronomy_difference=difference,
    )


def _laplace(objective: Objective, u: Floats) -> Floats:
    """(P, P) Gauss-Newton covariance at `u`, no direction wider than the prior allows."""
    priors = objective.priors
    curvature, _ = normal_equations(objective, u[None], objective(u[None]), priors.lower, priors.upper)
    widest = (priors.upper - priors.lower) / 4
    # In units of the prior's widths the eigenvalues are comparable, and none may be below 1.
    scaled = curvature[0] * np.outer(widest, widest)
    values, vectors = np.linalg.eigh(scaled)
    covariance = (vectors / np.maximum(values, 1.0)) @ vectors.T
    return np.asarray(covariance * np.outer(widest, widest))


def _polish(objective: Objective, optimum: Floats, chains: Chains) -> Floats:
    """The float64 optimum: of the search, or of the sampler where that saw something better."""
    flat = chains.u.reshape(-1, chains.u.shape[-1])
    begin = np.stack([optimum, flat[np.argmax(chains.log_prob)]])
    found = objective.climb(begin, iterations=15)
    return np.asarray(found.u[np.argmin(found.cost)])


def _images(likelihood: Likelihood, vector: Floats) -> Images:
    found = likelihood.solve(torch.as_tensor(vector)[None], non_negative=True)
    parts = likelihood.images(vector)
    data, scene = likelihood.data, likelihood.scene
    x, y = (float(vector[scene.source[0].column(name)]) for name in ("center_x", "center_y"))
    # Four half-light radii each way, and at least the size of the diamond caustic of a common lens.
    half = max(4 * _source_radius(scene, vector), 0.5)
    amplitudes = found.amplitudes[0, :, : len(scene.source)].numpy() * likelihood.unit
    return Images(
        data=np.asarray(data.image, dtype=np.float64),
        sigma=np.sqrt(likelihood.variance(found.model)[0].numpy()) * likelihood.unit,
        mask=data.mask,
        model=parts.model,
        source=parts.source,
        lens_light=parts.lens_light,
        inverse_magnification=derived.inverse_magnification(scene, vector, data.shape, data.pixel_scale, FINER),
        source_plane=derived.source_plane(scene, vector, amplitudes, 2 * half, 120),
        source_extent=(x - half, x + half, y - half, y + half),
    )


def _derived(
    likelihood: Likelihood,
    samples: Floats,
    cutout: Cutout,
    config: FitConfig,
    redshifts: tuple[float, float] | None,
    seed: int,
) -> dict[str, Quantity]:
    scene = likelihood.scene
    flat = samples.reshape(-1, samples.shape[-1])
    draws = flat[np.random.default_rng(seed).integers(0, len(flat), _DERIVED_DRAWS)]
    column = {name: draws[:, i] for i, name in enumerate(scene.names)}
    result = derived.shapes(column, cutout.cd)
    effective = derived.effective_einstein_radius(scene, draws)
    result["theta_E_effective"] = Quantity(effective, "arcsec")
    seen = derived.photometry(likelihood, draws)
    result["magnification"] = Quantity(seen.magnification, "")
    result |= derived.magnitudes(seen, cutout.zero_point, cutout.bands)
    if redshifts is not None:
        isothermal = column["theta_E"] if scene.lens[0].profile in ("SIE", "SIS") else None
        result |= derived.physical(effective, isothermal, *redshifts, config.cosmology)
    return result


def _compare(likelihood: Likelihood, vector: Floats, light: HeldLight | None) -> tuple[float, float]:
    """log L of the best model, and how far lenstronomy's is from it, scaled; NaN where lenstronomy has no such case."""
    factor, subpixels = likelihood.supersampling, likelihood.subpixels
    own = Likelihood(
        likelihood.data, likelihood.scene, torch.float64, supersampling=factor, marginalise=False, subpixels=subpixels
    )
    value = float(own(torch.as_tensor(vector)[None])[0])
    height, width = likelihood.data.shape
    if height != width:
        return value, float("nan")
    held = light.components if light else ()
    theirs = Lenstronomy(likelihood.data, likelihood.scene, factor, held, subpixels).log_likelihood(vector)
    return value, abs(value - theirs) / max(1.0, abs(theirs) / 1e3)


def at_bound(u: Floats, priors: Priors) -> tuple[str, ...]:
    """Parameters of mass and source at a bound that tell of a wrong model.

    Lens light may well run into one without harm to the mass, and so may a real source's ellipticity; the centre has
    bounds of its own where it follows the light; and a core at its smallest says only that none is seen.
    """
    margin = 0.005 * (priors.upper - priors.lower)
    harmless = re.compile(r"lens_light|source\d*_e[12]|center_[xy]$")
    coreless = np.array([name.endswith("s_scale") for name in priors.names])
    outside = ((u < priors.lower + margin) & ~coreless) | (u > priors.upper - margin)
    return tuple(name for name, out in zip(priors.names, outside) if out and not harmless.match(name))


def mass_light(scene: Scene | Foreign, vector: Floats, light: HeldLight | None = None) -> float:
    """|e_mass - e_light|, the bands' mean where each has its own; NaN where mass or light is round by definition."""
    values: dict[str, list[float]] = {"lens_light_e1": [light.e1], "lens_light_e2": [light.e2]} if light else {}
    for name, value in zip(scene.names, vector):
        values.setdefault(without_band(name), []).append(float(value))
    if not {"e1", "lens_light_e1"} <= values.keys():
        return float("nan")
    e1, e2 = (np.mean(values[e]) - np.mean(values[f"lens_light_{e}"]) for e in ("e1", "e2"))
    return float(np.hypot(e1, e2))


def _source_radius(scene: Scene, vector: Floats) -> float:
    """Half-light radius of the first source, arcsec; the largest where the bands differ."""
    first = scene.source[0]
    sizes = [vector[columns[0]] for columns in first.per_band or (first.columns,)]
    return float(max(sizes)) * half_light(first.profile)


def overlap(source: NDArray[np.float32] | None, images: Images) -> float:
    if source is None or not (source > 0.5).any():
        return float("nan")
    return float(np.mean(np.any(images.arc, axis=0)[source > 0.5]))
