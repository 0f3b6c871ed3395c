"""``engine: lenstronomy``: scenes that lenspipe has no profiles for, fitted by lenstronomy's own FittingSequence.

A particle swarm and emcee, their lengths in ``recipe``; likelihood, swarm and sampler are lenstronomy's, priors and
diagnostics are ours. Of the results everything is filled in that does not need our profiles.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import CandidateError, LenspipeError, Reason
from lenspipe.infer import derived
from lenspipe.infer.checkpoint import Checkpoint
from lenspipe.infer.config import FitConfig
from lenspipe.infer.derived import Quantity
from lenspipe.infer.diagnostics import diagnose
from lenspipe.infer.fit import FINER, Fit, Images, at_bound, mass_light, overlap
from lenspipe.infer.foreign import Foreign, build
from lenspipe.infer.prepare import Prepared, default_window, prepare, seeing
from lenspipe.infer.priors import Priors
from lenspipe.infer.recipe import BALL, as_given, first_box
from lenspipe.infer.reference import band_settings
from lenspipe.infer.sample import Chains, meets_rule
from lenspipe.infer.verdict import Evidence, judge
from lenspipe.types import Cutout, Masks, Posterior

Floats = NDArray[np.float64]
log = logging.getLogger(__name__)

_IMPOSSIBLE = -1e18
_PLANE = 240
"""Pixels on a side of the grid on which unlensed flux is summed, 32 source sizes wide."""
_DRAWS = 60
"""Draws of which derived quantities are computed: each costs an evaluation or two of lenstronomy's."""


def fit_foreign(
    cutout: Cutout,
    masks: Masks | None,
    config: FitConfig,
    seed: int,
    redshifts: tuple[float, float] | None,
    checkpoint: Checkpoint,
) -> Fit:
    """As `lenspipe.infer.fit.fit`, by lenstronomy. What an earlier process left spares the swarm, not the sampling.

    Raises
    ------
    CandidateError : where there is nothing to fit, or the likelihood is finite nowhere that the swarm came.
    LenspipeError : where lenstronomy refuses the scene.
    """
    begun, cpu_begun = time.perf_counter() - checkpoint.spent, time.process_time()
    config = as_given(config).resolve(seeing(cutout), default_window(cutout, masks))
    model, recipe = config.model, config.recipe
    if model.free_bands:
        raise LenspipeError("model.free_bands: engine: lenstronomy gives all bands one shape.")
    if model.light_held:
        raise LenspipeError("model.lens_light: engine: lenstronomy has no light that is held; name profiles to sample.")
    scene = build(
        *(model.lens, model.source, model.lens_light or (), bool(model.sky), model.joint_centre),
        *(config.fixed, config.priors),
    )
    priors = Priors(scene.names, config.priors, config.mass_follows_light)
    prepared = prepare(cutout, masks, config.data)
    machine = _Machine(prepared, scene, priors, config.data.supersampling)
    walkers = max(recipe.walkers, 2 * len(scene.names))
    walkers += walkers % 2
    with _alone(seed, scene):
        kept = checkpoint.load("swarm")
        if kept is None:
            optimum, evaluations = machine.swarm(recipe.particles, recipe.iterations)
            checkpoint.save("swarm", {"optimum": optimum, "evaluations": np.array(evaluations)})
        else:
            optimum, evaluations = kept["optimum"], int(kept["evaluations"])
    cpu_searched = time.process_time()
    if machine.log_posterior(optimum) <= _IMPOSSIBLE:
        raise CandidateError(Reason.NO_FINITE_START, f"the swarm found no finite likelihood in {evaluations} tries.")
    with _alone(seed + 1, scene):
        flat, values = machine.walk(optimum, walkers, recipe.burn, recipe.steps)

    shape = (1, recipe.steps, walkers)
    u, log_prob = priors.inner(flat).reshape(*shape, -1), values.reshape(shape)
    quality = diagnose(u)
    evaluations += walkers * (recipe.burn + recipe.steps + 1)
    chains = Chains(u, log_prob, quality, meets_rule(config.sampler, recipe.steps, quality), evaluations)
    best = flat[np.argmax(values)] if values.max() > machine.log_posterior(optimum) else optimum
    posterior = Posterior(scene.names, scene.units, flat.reshape(1, -1, flat.shape[-1]), values.reshape(1, -1), best)
    images, value = machine.images(best), machine.log_likelihood(best)
    # Colours of one source differ little in magnification: that of the band with the clearest arc is reported.
    band = int(np.argmax(((images.source / images.sigma) ** 2 * images.mask).sum((1, 2))))
    quantities = _derived(machine, flat, band, cutout, config, redshifts, seed)
    theta_E = effective_radius(scene, best)
    free = len(best) + machine.amplitudes
    return Fit(
        config=config,
        scene=scene,
        priors=priors,
        prepared=prepared,
        posterior=posterior,
        chains=chains,
        images=images,
        derived=quantities,
        verdict=judge(
            Evidence(
                at_bound=at_bound(priors.inner(best), priors),
                searched=(0.0, np.inf),
                magnification=machine.magnification(best, band),
                theta_E=theta_E,
                source_radius=float(best[scene.index("source_R_sersic")])
                if "source_R_sersic" in scene.names
                else float("nan"),
                # One swarm leads to one optimum: nothing can be said of others.
                near_best=np.array([theta_E]),
                mass_light=mass_light(scene, best),
                other_lights={},
                arc_signal=images.arc_signal,
                mask_overlap=overlap(prepared.source, images),
                converged=chains.converged,
                lenstronomy_difference=float("nan"),
            ),
            config.verdict,
        ),
        reduced_chi2=images.reduced_chi2(free),
        chi2_arc=images.chi2_arc,
        log_likelihood=value,
        lenstronomy_difference=float("nan"),
        light=None,
        other_lights={},
        notes=(),
        evaluations=evaluations,
        seconds=time.perf_counter() - begun,
        cpu_seconds=time.process_time() - cpu_begun,
        search_cpu_seconds=cpu_searched - cpu_begun,
        engine="lenstronomy",
    )


class _Machine:
    """lenstronomy's objects for one candidate and scene; vectors are (P,) in their own units."""

    def __init__(self, prepared: Prepared, scene: Foreign, priors: Priors, supersampling: int):
        self.scene, self.priors, self.data = scene, priors, prepared.imaging
        self.lower, self.upper = first_box(prepared, priors)
        self.bands = [band_settings(self.data, b, supersampling) for b in range(len(self.data.image))]
        self.masks = [m.astype(float) for m in self.data.mask]
        self.model = {
            "lens_model_list": list(scene.profiles["lens"]),
            "source_light_model_list": list(scene.profiles["source"]),
            "lens_light_model_list": list(scene.profiles["lens_light"]),
        }
        self._likelihood = self._sequence(self._middle()).likelihood_class
        self._single = [self._one(b) for b in range(len(self.bands))]

    @property
    def amplitudes(self) -> int:
        """Number of linear amplitudes, all bands together."""
        return int(self._likelihood.param.num_param_linear())

    def swarm(self, particles: int, iterations: int) -> tuple[Floats, int]:
        """The best place, and how many evaluations it took."""
        sequence = self._sequence(self._middle())
        ((_, (history, *_), _),) = sequence.fit_sequence(
            [["PSO", {"sigma_scale": 1.0, "n_particles": particles, "n_iterations": iterations, "threadCount": 1}]]
        )
        return self.scene.vector(sequence.best_fit(bijective=True)), 1 + particles * (len(history) + 1)

    def walk(self, begin: Floats, walkers: int, burn: int, steps: int) -> tuple[Floats, Floats]:
        """(steps x walkers, P) draws and their log posterior in sampled coordinates."""
        settings = {"n_burn": burn, "n_run": steps, "n_walkers": walkers, "sigma_scale": BALL, "progress": False}
        ((_, samples, names, values),) = self._sequence(begin).fit_sequence([["emcee", settings]])
        flat = np.asarray(samples)[:, self.scene.columns(names)]
        return flat, np.asarray(values) + self._stretch(flat)

    def log_posterior(self, vector: Floats) -> float:
        """In sampled coordinates."""
        return self.log_likelihood(vector) + float(self.priors.log_prior(self.priors.inner(vector)[None])[0])

    def log_likelihood(self, vector: Floats) -> float:
        with _quiet():
            value, _ = self._likelihood.image_likelihood.logL(**self._filled(vector), kwargs_ps=[])
        return float(value)

    def images(self, vector: Floats) -> Images:
        scale, shape = self.data.pixel_scale, self.data.shape
        solved = [self._solve(b, vector) for b in range(len(self.bands))]
        models, sources, lights = [], [], []
        for single, kwargs in zip(self._single, solved):
            models.append(single.image(**kwargs, kwargs_ps=[]))
            sources.append(single.source_surface_brightness(kwargs["kwargs_source"], kwargs["kwargs_lens"]))
            galaxy = copy.deepcopy(kwargs["kwargs_lens_light"])
            if self.scene.sky:
                galaxy[-1]["amp"] = 0.0
            lights.append(single.lens_surface_brightness(galaxy) if galaxy else np.zeros(shape))
        sigma = [np.sqrt(single.Data.C_D_model(model)) for single, model in zip(self._single, models)]
        fine = _grid(shape[0] * FINER, shape[1] * FINER, scale / FINER)
        lens = self.scene.lens_model()
        xx, xy, yx, yy = lens.hessian(*(axis.ravel() for axis in fine), self.scene.kwargs(vector)["kwargs_lens"])
        x, y, half = self._extent(vector)
        pixels = 120
        grid = _grid(pixels, pixels, 2 * half / pixels)
        plane = [self._brightness(kwargs, grid[0] + x, grid[1] + y) * scale**2 for kwargs in solved]
        return Images(
            data=np.asarray(self.data.image, dtype=np.float64),
            sigma=np.stack(sigma),
            mask=self.data.mask,
            model=np.stack(models),
            source=np.stack(sources),
            lens_light=np.stack(lights),
            inverse_magnification=((1 - xx) * (1 - yy) - xy * yx).reshape(fine[0].shape),
            source_plane=np.stack(plane),
            source_extent=(x - half, x + half, y - half, y + half),
        )

    def magnification(self, vector: Floats, band: int = 0) -> float:
        """Total: lensed flux on the window over unlensed flux, in `band`."""
        chosen = self._solve(band, vector)
        shape, scale = self.data.shape, self.data.pixel_scale
        factor = max(int(np.ceil(scale / 0.06)), 1)
        image = _grid(shape[0] * factor, shape[1] * factor, scale / factor)
        rays = self.scene.lens_model().ray_shooting(*(axis.ravel() for axis in image), chosen["kwargs_lens"])
        lensed = self._brightness(chosen, *rays).sum() * (scale / factor) ** 2
        x, y, half = self._extent(vector)
        step = 8 * half / _PLANE
        plane = _grid(_PLANE, _PLANE, step)
        unlensed = self._brightness(chosen, plane[0] + x, plane[1] + y).sum() * step**2
        return float(lensed / unlensed) if unlensed > 0 else float("nan")

    def _brightness(self, kwargs: dict[str, Any], x: Floats, y: Floats) -> Floats:
        """Unlensed source per arcsec^2 at source-plane positions."""
        light = self._single[0].SourceModel
        return np.asarray(light.surface_brightness(x.ravel(), y.ravel(), kwargs["kwargs_source"])).reshape(x.shape)

    def _extent(self, vector: Floats) -> tuple[float, float, float]:
        """x, y of the first source and half the side of the square that shows it, arcsec."""
        first = self.scene.kwargs(vector)["kwargs_source"][0]
        size = next((first[n] for n in ("R_sersic", "beta", "sigma", "Rs") if isinstance(first.get(n), float)), 0.2)
        return float(first.get("center_x", 0.0)), float(first.get("center_y", 0.0)), max(4 * size, 0.5)

    def _solve(self, b: int, vector: Floats) -> dict[str, Any]:
        """Keyword arguments with the best amplitudes in band `b`."""
        kwargs, single = self._filled(vector), self._single[b]
        *_, amplitudes = single.image_linear_solve(**kwargs, kwargs_ps=[])
        lens, source, light, _ = single.update_linear_kwargs(amplitudes, **kwargs, kwargs_ps=[])
        return {"kwargs_lens": lens, "kwargs_source": source, "kwargs_lens_light": light}

    def _filled(self, vector: Floats) -> dict[str, Any]:
        """As lenstronomy wants them: amplitudes, which it solves for, included."""
        filled: dict[str, Any] = self._likelihood.param.args2kwargs(self._arguments(vector))
        return {name: copy.deepcopy(filled[name]) for name in ("kwargs_lens", "kwargs_source", "kwargs_lens_light")}

    def _arguments(self, vector: Floats) -> list[float]:
        _, names = self._likelihood.param.num_param()
        columns = self.scene.columns(names)
        arguments = [0.0] * len(names)
        for column, value in zip(columns, vector):
            arguments[column] = float(value)
        return arguments

    def _middle(self) -> Floats:
        return self.priors.physical((self.lower + self.upper) / 2)

    def _stretch(self, vectors: Floats) -> Floats:
        """ln of what turns a density over parameters into one over sampled coordinates."""
        logarithmic = self.priors.logarithmic
        return np.asarray(np.log(vectors[..., logarithmic]).sum(-1))

    def _prior(self, **kwargs: Any) -> float:
        vector = self.scene.vector(kwargs)
        value = float(self.priors.log_prior(self.priors.inner(vector)[None])[0] - self._stretch(vector))
        return value if np.isfinite(value) else _IMPOSSIBLE

    def _sequence(self, begin: Floats) -> Any:
        from lenstronomy.Workflow.fitting_sequence import FittingSequence

        scene, priors = self.scene, self.priors
        low, high = priors.physical(priors.lower), priors.physical(priors.upper)
        half = (priors.physical(self.upper) - priors.physical(self.lower)) / 2
        held = {role: [dict(f) for f in scene.fixed[role]] for role in scene.fixed}
        parts = [scene.lists(v) for v in (begin, half)], held, [scene.lists(v) for v in (low, high)]
        names = {"lens_model": "lens", "source_model": "source", "lens_light_model": "lens_light"}
        if scene.joint:
            centre = ("center_x", "center_y")
            for lists in (*parts[0], *parts[2]):
                lists["lens_light"][0] |= {c: lists["lens"][0][c] for c in centre}
        try:
            with _quiet():
                return FittingSequence(
                    {"multi_band_list": self.bands, "multi_band_type": "multi-linear"},
                    self.model,
                    {"joint_lens_with_light": [[0, 0, ["center_x", "center_y"]]]} if scene.joint else {},
                    {
                        "check_bounds": True,
                        "check_positive_flux": True,
                        "image_likelihood_mask_list": self.masks,
                        "custom_logL_addition": self._prior,
                    },
                    {
                        key: [parts[0][0][role], parts[0][1][role], held[role], parts[2][0][role], parts[2][1][role]]
                        for key, role in names.items()
                    },
                    verbose=False,
                )
        except (ValueError, KeyError, TypeError, ImportError) as error:
            raise LenspipeError(f"lenstronomy refuses this scene: {type(error).__name__}: {error}.") from None

    def _one(self, b: int) -> Any:
        from lenstronomy.ImSim.MultiBand.single_band_multi_model import SingleBandMultiModel

        return SingleBandMultiModel(self.bands, self.model, likelihood_mask_list=self.masks, band_index=b)


def effective_radius(scene: Foreign, vector: Floats) -> float:
    """Radius of the circle about the main deflector within which its mean convergence is 1, arcsec; NaN if none.

    The mean convergence within r is the mean radial deflection on the circle over r (Gauss's theorem).
    """
    lens, kwargs = scene.lens_model(only_main=True), scene.kwargs(vector)["kwargs_lens"][:1]
    x0, y0 = (kwargs[0].get(c, 0.0) for c in ("center_x", "center_y"))
    angle = 2 * np.pi * (np.arange(64) + 0.5) / 64
    radii = np.geomspace(0.02, 20, 300)
    x, y = radii[:, None] * np.cos(angle), radii[:, None] * np.sin(angle)
    alpha = lens.alpha((x0 + x).ravel(), (y0 + y).ravel(), kwargs)
    radial = (np.reshape(alpha[0], x.shape) * np.cos(angle) + np.reshape(alpha[1], x.shape) * np.sin(angle)).mean(1)
    excess = radial / radii - 1
    inside = np.flatnonzero((excess[:-1] > 0) & (excess[1:] <= 0))
    if not len(inside):
        return float("nan")
    i = int(inside[-1])
    share = excess[i] / (excess[i] - excess[i + 1])
    return float(radii[i] * (radii[i + 1] / radii[i]) ** share)


def _derived(
    machine: _Machine,
    flat: Floats,
    band: int,
    cutout: Cutout,
    config: FitConfig,
    redshifts: tuple[float, float] | None,
    seed: int,
) -> dict[str, Quantity]:
    scene = machine.scene
    draws = flat[np.random.default_rng(seed).integers(0, len(flat), _DRAWS)]
    column = {name: draws[:, i] for i, name in enumerate(scene.names)}
    result = derived.shapes(column, cutout.cd)
    result["theta_E_effective"] = Quantity(np.array([effective_radius(scene, d) for d in draws]), "arcsec")
    result["magnification"] = Quantity(np.array([machine.magnification(d, band) for d in draws]), "")
    if redshifts is not None:
        isothermal = column.get("theta_E") if scene.profiles["lens"][0] in ("SIE", "SIS") else None
        result |= derived.physical(result["theta_E_effective"].draws, isothermal, *redshifts, config.cosmology)
    return result


def _grid(height: int, width: int, scale: float) -> tuple[Floats, Floats]:
    """x, y (H, W) of pixel centres, arcsec."""
    y, x = np.mgrid[:height, :width].astype(float)
    return (x - (width - 1) / 2) * scale, (y - (height - 1) / 2) * scale


@contextlib.contextmanager
def _alone(seed: int, scene: Foreign) -> Iterator[None]:
    """lenstronomy draws from numpy's global generator: seeded here, and left as it was found."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        with _quiet():
            yield
    except (ValueError, KeyError, TypeError) as error:
        profiles = ", ".join(p for role in scene.profiles.values() for p in role)
        raise LenspipeError(f"lenstronomy cannot fit {profiles}: {type(error).__name__}: {error}.") from error
    finally:
        np.random.set_state(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield
