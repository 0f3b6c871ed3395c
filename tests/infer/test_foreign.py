"""Scenes that lenstronomy fits: for profiles that we have too, all comes out as ours; others run and say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lenspipe.errors import LenspipeError
from lenspipe.infer import derived
from lenspipe.infer.config import FitConfig, VerdictConfig
from lenspipe.infer.fit import FINER, fit
from lenspipe.infer.fit_foreign import _Machine, effective_radius
from lenspipe.infer.foreign import build
from lenspipe.infer.likelihood import Likelihood, using
from lenspipe.infer.prepare import prepare
from lenspipe.infer.priors import Prior, Priors
from lenspipe.infer.reference import Lenstronomy
from lenspipe.infer.verdict import Evidence, judge
from tests.infer.mock import SCENE, VECTOR, lens

TINY = {"particles": 8, "iterations": 3, "walkers": 4, "burn": 2, "steps": 10}
CORE = {
    "model": {"lens_light": ["CORE_SERSIC"]},
    "priors": {"lens_light_Rb": {"lower": 0.01, "upper": 0.5}, "lens_light_gamma": {"lower": 0, "upper": 1}},
    "recipe": TINY,
}


@pytest.fixture(scope="module")
def twins():
    """A machine of lenstronomy's, and our likelihood, of the same lens."""
    cutout, masks = lens(size=31)
    prepared = prepare(cutout, masks, FitConfig().data)
    scene = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"], False, True, {}, {})
    return _Machine(prepared, scene, Priors(scene.names, {}), 1), Likelihood(prepared.imaging, SCENE)


def test_names_and_order_are_ours(twins):
    machine, _ = twins
    assert (machine.scene.names, machine.scene.units) == (SCENE.names, SCENE.units)
    np.testing.assert_array_equal(machine.scene.vector(machine.scene.kwargs(VECTOR)), VECTOR)


def test_the_likelihood_is_that_of_the_same_scene(twins):
    machine, ours = twins
    theirs = Lenstronomy(ours.data, SCENE).log_likelihood(VECTOR)
    assert machine.log_likelihood(VECTOR) == pytest.approx(theirs, rel=1e-12)
    assert float(ours(torch.as_tensor(VECTOR)[None])[0]) == pytest.approx(theirs, rel=1e-9)


def test_images_are_those_of_the_same_scene(twins):
    machine, ours = twins
    images = machine.images(VECTOR)
    found = ours.solve(torch.as_tensor(VECTOR)[None])
    amplitudes = (found.amplitudes[0] * ours.unit).numpy()
    layers = found.layers[0].numpy()
    peak = np.abs(images.model).max()
    np.testing.assert_allclose(images.model, found.model[0].numpy() * ours.unit, atol=1e-9 * peak)
    for image, layer in ((images.source, 0), (images.lens_light, 1)):
        np.testing.assert_allclose(image, amplitudes[:, layer, None, None] * layers[layer], atol=1e-9 * peak)
    np.testing.assert_allclose(images.sigma, np.sqrt(ours.variance(found.model)[0].numpy()) * ours.unit, rtol=1e-9)
    shape, scale = ours.data.shape, ours.data.pixel_scale
    expected = derived.inverse_magnification(SCENE, VECTOR, shape, scale, FINER)
    np.testing.assert_allclose(images.inverse_magnification, expected, rtol=1e-3, atol=1e-4)
    left, right, *_ = images.source_extent
    plane = derived.source_plane(SCENE, VECTOR, amplitudes[:, :1], right - left, 120)
    np.testing.assert_allclose(images.source_plane, plane, rtol=1e-6)


def test_derived_quantities_are_those_of_the_same_scene(twins):
    machine, ours = twins
    radius = derived.effective_einstein_radius(SCENE, VECTOR[None])[0]
    assert effective_radius(machine.scene, VECTOR) == pytest.approx(radius, rel=1e-3)
    mu = derived.photometry(ours, VECTOR[None]).magnification[0]
    assert machine.magnification(VECTOR) == pytest.approx(mu, rel=0.02)
    rays = (scene.ray_shoot(torch.as_tensor(VECTOR)[None], *torch.ones(2, 1, 3)) for scene in (machine.scene, SCENE))
    for a, b in zip(*rays):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_profile_that_only_lenstronomy_has_runs_there():
    cutout, masks = lens(size=21)
    before = np.random.get_state()[1].copy()
    first, again = (fit(cutout, masks, FitConfig.model_validate(CORE), seed=3) for _ in range(2))
    assert first.engine == "lenstronomy" and not first.chains.converged
    assert {"lens_light_Rb", "lens_light_gamma", "theta_E"} < set(first.posterior.names)
    walkers = 2 * len(first.posterior.names)
    assert first.posterior.samples.shape == (1, 10 * walkers, walkers // 2)
    np.testing.assert_array_equal(first.posterior.samples, again.posterior.samples)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert np.isfinite(first.log_likelihood) and np.isnan(first.lenstronomy_difference)
    assert first.evaluations == 1 + 8 * 4 + walkers * 13
    low, high = CORE["priors"]["lens_light_Rb"].values()
    rb = first.posterior.samples[..., first.scene.index("lens_light_Rb")]
    assert low <= rb.min() and rb.max() <= high


def test_a_swarm_that_was_kept_is_not_run_again():
    class Kept:
        spent = 0.0

        def __init__(self):
            self.parts = {}

        def load(self, part):
            return self.parts.get(part)

        def save(self, part, arrays):
            self.parts[part] = dict(arrays)

        def due(self):
            return False

    cutout, masks = lens(size=21)
    kept, config = Kept(), FitConfig.model_validate({"engine": "lenstronomy", "recipe": TINY})
    first = fit(cutout, masks, config, 3, checkpoint=kept)
    never = config.model_copy(update={"recipe": config.recipe.model_copy(update={"particles": 0})})
    again = fit(cutout, masks, never, 3, checkpoint=kept)
    np.testing.assert_array_equal(first.posterior.samples, again.posterior.samples)


def test_bounds_that_are_missing_are_named():
    with pytest.raises(LenspipeError, match="Rs, alpha_Rs, source_n_max, source_beta must be declared"):
        build(["NFW_ELLIPSE_CSE"], ["SHAPELETS"], [], False, True, {}, {})
    scene = build(
        ["NFW_ELLIPSE_CSE", "SHEAR"], ["SHAPELETS"], ["CORE_SERSIC"], True, True, {"source_n_max": 4, "Rs": 10.0},
        {n: Prior(lower=0.1, upper=1) for n in ("alpha_Rs", "source_beta", "lens_light_Rb", "lens_light_gamma")},
    )  # fmt: skip
    assert scene.names[:7] == ("alpha_Rs", "e1", "e2", "center_x", "center_y", "gamma1", "gamma2")
    assert scene.kwargs(np.zeros(len(scene.names)))["kwargs_source"][0]["n_max"] == 4
    with pytest.raises(LenspipeError, match=r"fixed\.Rss: no such parameter"):
        build(["SIE"], ["SERSIC_ELLIPSE"], [], False, True, {"Rss": 1.0}, {})


def test_engines_that_cannot_are_refused():
    cutout, masks = lens(size=21)
    with pytest.raises(LenspipeError, match="engine: torch: it has no CORE_SERSIC"):
        fit(cutout, masks, FitConfig.model_validate(CORE | {"engine": "torch"}), seed=1)
    with pytest.raises(LenspipeError, match=r"fixed\.e1: only engine: lenstronomy"):
        fit(cutout, masks, FitConfig.model_validate({"fixed": {"e1": 0.0}}), seed=1)
    with pytest.raises(ValidationError, match="no profile 'CORE_SERSICS'; did you mean 'CORE_SERSIC'"):
        FitConfig.model_validate({"model": {"lens_light": ["CORE_SERSICS"]}})


def test_the_engine_that_is_asked_for_runs_everywhere(twins):
    _, ours = twins
    with using("torch"):
        likelihood = Likelihood(ours.data, SCENE)
        assert {likelihood.engine, likelihood.to(torch.float32).engine, likelihood.masked(ours.data.mask).engine} == {
            "torch"
        }
    assert Likelihood(ours.data, SCENE).engine == ours.engine


def test_what_is_not_known_is_no_reason():
    nan = float("nan")
    unknown = Evidence((), (0.0, np.inf), nan, nan, nan, np.array([nan]), nan, {}, 100.0, nan, True, nan)
    assert judge(unknown, VerdictConfig()).status == "good"
