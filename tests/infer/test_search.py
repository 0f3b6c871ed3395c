"""The search finds the lens, and doubts a mask that takes a neighbour for an arc."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lenspipe.infer.config import FitConfig
from lenspipe.infer.prepare import prepare
from lenspipe.infer.priors import Priors
from lenspipe.infer.search import distinct, search
from lenspipe.infer.starts import drawn
from lenspipe.lensing.light import sersic_ellipse
from lenspipe.lensing.scene import build
from lenspipe.types import CLASSES, DEFLECTOR, Estimate, Masks
from tests.infer.mock import SCENE, TRUTH, lens

CONFIG = FitConfig.model_validate({"search": {"starts": 12, "radii": 14, "finalists": 4}})


def theta_E(cutout, masks):
    config = CONFIG.resolve(1.25, 12)
    with torch.no_grad():
        found = search(prepare(cutout, masks, config.data), SCENE, config)
    return found.vector[0], found.notes


def test_leaves_out_a_neighbour_that_was_taken_for_an_arc():
    cutout, masks = lens()
    axis = torch.as_tensor((np.arange(45) - 22) * cutout.pixel_scale)
    shape = [torch.tensor(v) for v in (0.4, 1.0, 0.1, 0.2, -3.2, 1.8)]
    neighbour = sersic_ellipse(axis[None], axis[:, None], *shape).numpy()
    image = cutout.image + np.array([40.0, 35.0, 30.0], np.float32)[:, None, None] * neighbour.astype(np.float32)
    probability = masks.probability.copy()
    probability[:, neighbour > 0.05] = 0
    probability[CLASSES.index("source"), neighbour > 0.05] = 1
    radius, notes = theta_E(replace(cutout, image=image), Masks(probability, "unet"))
    assert radius == pytest.approx(TRUTH["theta_E"], rel=0.05)
    assert len(notes) == 1
    assert "x = -3.2, y = 1.8" in notes[0]


def test_widens_a_mask_that_is_too_tight():
    cutout, masks = lens()
    axis = torch.as_tensor((np.arange(45) - 22) * cutout.pixel_scale)
    shape = [torch.tensor(v) for v in (0.4, 1.0, 0.0, 0.0, 2.5, -1.8)]
    neighbour = sersic_ellipse(axis[None], axis[:, None], *shape).numpy().astype(np.float32)
    image = cutout.image + np.array([60.0, 54.0, 48.0], np.float32)[:, None, None] * neighbour
    probability = masks.probability.copy()
    probability[:, neighbour > 1.0] = 0
    probability[CLASSES.index("noise"), neighbour > 1.0] = 1
    radius, _ = theta_E(replace(cutout, image=image), Masks(probability, "unet"))
    assert radius == pytest.approx(TRUTH["theta_E"], rel=0.05)


def test_believes_masks_that_fit():
    radius, notes = theta_E(*lens())
    assert radius == pytest.approx(TRUTH["theta_E"], rel=0.05)
    assert notes == ()


def test_the_noise_that_is_sampled_is_the_best_models():
    cutout, masks = lens()
    config = CONFIG.resolve(1.25, 12)
    prepared = prepare(cutout, masks, config.data)
    with torch.no_grad():
        found = search(prepared, SCENE, config)
        model = found.objective.likelihood.images(found.vector).model
    assert prepared.imaging.sigma is None
    sigma = found.objective.likelihood.data.sigma
    implied = cutout.background_rms[:, None, None] ** 2 + model / cutout.exposure_time[:, None, None]
    np.testing.assert_allclose(sigma**2, implied, rtol=0.02)


def test_light_and_mass_with_centres_of_their_own():
    cutout, masks = lens()
    config = CONFIG.resolve(1.25, 12)
    scene = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"], joint_centre=False)
    with torch.no_grad():
        found = search(prepare(cutout, masks, config.data), scene, config)
    best = dict(zip(scene.names, found.vector))
    assert best["theta_E"] == pytest.approx(TRUTH["theta_E"], rel=0.05)
    for name in ("center_x", "lens_light_center_x"):
        assert best[name] == pytest.approx(TRUTH["center_x"], abs=0.05)


@pytest.mark.parametrize("model", [{"lens": ["SHEAR", "SIE"]}, {"lens": []}, {"lens_light": []}, {"source": []}])
def test_scenes_that_cannot_be_fitted_are_refused(model):
    with pytest.raises(ValidationError):
        FitConfig.model_validate({"model": model})


def test_distinct_keeps_one_of_each():
    u = np.array([[0.0, 0.0], [0.001, 0.0], [1.0, 0.0], [1.0, 0.5]])
    np.testing.assert_array_equal(distinct(u, np.array([2.0, 1.0, 4.0, 3.0]), 4), [1, 3, 2])
    np.testing.assert_array_equal(distinct(u, np.array([2.0, 1.0, 4.0, 3.0]), 2), [1, 3])


def estimate(**change):
    values = TRUTH | change
    mean = np.array([values[name] for name in DEFLECTOR])
    mean[DEFLECTOR.index("theta_E")] = np.log(values["theta_E"])
    return Estimate(mean, np.diag(np.square([0.1, 0.1, 0.1, 0.08, 0.08, 0.02, 0.02])), "net")


def found_from(estimate, **options):
    cutout, masks = lens()
    config = FitConfig.model_validate({"search": {"starts": 3, "radii": 3, "finalists": 2, **options}})
    config = config.resolve(1.25, 12)
    with torch.no_grad():
        return search(prepare(cutout, masks, config.data, estimate), SCENE, config)


def test_estimates_give_starts_and_nothing_more():
    many = found_from(None, starts=12, radii=14, finalists=4)
    few = found_from(estimate(), theta_E_min=3.0, estimated=4)
    assert few.theta_E == pytest.approx(many.theta_E, rel=1e-4)
    assert few.optima.cost[0] == pytest.approx(many.optima.cost[0], abs=0.01)
    # An estimate that is sure of something wrong takes nothing away.
    wrong = found_from(estimate(theta_E=0.5, e1=-0.4), starts=12, radii=14, finalists=4, estimated=4)
    assert wrong.optima.cost[0] <= many.optima.cost[0] + 1e-3
    assert few.objective.priors.describe() == many.objective.priors.describe()


def test_draws_begin_at_the_mean_and_have_the_stated_covariance():
    priors = Priors(SCENE.names, {})
    light = {"center_x": 0.3, "center_y": 0.0}
    given = estimate()
    points = priors.physical(drawn(given, SCENE, priors, light, 400))
    columns = [SCENE.index(name) for name in DEFLECTOR]
    own = points[:, 0][:, columns]
    assert own[0] == pytest.approx([TRUTH[name] for name in DEFLECTOR])
    own[:, 2] = np.log(own[:, 2])
    assert own.std(0) == pytest.approx(np.sqrt(np.diag(given.covariance)), rel=0.15)
    assert points[:, -1, SCENE.index("center_x")] == pytest.approx(0.3)  # about the light's centre too
