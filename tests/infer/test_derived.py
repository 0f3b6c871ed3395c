"""Derived quantities against lenstronomy and against their definitions."""

import numpy as np
import pytest
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LensModel.Profiles.sie import SIE

from lenspipe.infer import derived
from lenspipe.infer.summary import orientation_quantity, quantity
from tests.infer.mock import SCENE, TRUTH, VECTOR

SIE_KWARGS = {name: TRUTH[name] for name in ("theta_E", "e1", "e2", "center_x", "center_y")}


def test_inverse_magnification_is_lenstronomys():
    ours = derived.inverse_magnification(SCENE, VECTOR, (21, 21), 0.2)
    axis = (np.arange(21) - 10) * 0.2
    x, y = (a.ravel() for a in np.meshgrid(axis, axis))
    model = LensModel(["SIE", "SHEAR"])
    kwargs = [SIE_KWARGS, {"gamma1": TRUTH["gamma1"], "gamma2": TRUTH["gamma2"]}]
    theirs = 1 / model.magnification(x, y, kwargs)
    # Nearer to the singular centre finite differences of neither code mean anything.
    away = np.hypot(x - TRUTH["center_x"], y - TRUTH["center_y"]) > 0.1
    np.testing.assert_allclose(ours.ravel()[away], theirs[away], atol=1e-4, rtol=1e-4)


def test_effective_radius_has_mean_convergence_one():
    q = float(derived.axis_ratio(np.array(TRUTH["e1"]), np.array(TRUTH["e2"])))
    radius = float(derived.effective_einstein_radius(np.array(1.5), np.array(q)))
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    r = (np.arange(600) + 0.5) / 600 * radius
    x, y = r[:, None] * np.cos(angle) + 0.03, r[:, None] * np.sin(angle) - 0.02
    f_xx, _, _, f_yy = SIE().hessian(x.ravel(), y.ravel(), **SIE_KWARGS)
    kappa = (0.5 * (f_xx + f_yy)).reshape(x.shape)
    assert (kappa * r[:, None]).sum() / (r.sum() * 400) == pytest.approx(1, abs=2e-3)


def test_magnification_does_not_depend_on_the_pixels():
    coarse = derived.magnification(SCENE, VECTOR[None], (45, 45), 0.2637)
    fine = derived.magnification(SCENE, VECTOR[None], (241, 241), 0.05)
    assert 3 < coarse[0] < 30
    assert coarse[0] == pytest.approx(fine[0], rel=0.01)


def test_position_angle_on_a_north_up_east_left_image():
    cd = np.diag([-0.05, 0.05]) / 3600
    phi = np.radians([90.0, 0.0, 135.0, 30.0])
    difference = derived.position_angle(phi, cd) - np.array([0.0, 90.0, 45.0, 120.0])
    np.testing.assert_allclose((difference + 90) % 180 - 90, 0, atol=1e-9)


def test_orientations_are_averaged_on_the_circle():
    draws = np.random.default_rng(0).normal(178, 5, 4000) % 180
    found = orientation_quantity(draws, "deg")
    assert found["median"] == pytest.approx(178, abs=0.5)
    assert found["sigma"] == pytest.approx(5, abs=0.3)
    assert found["p16"] < found["median"] < found["p84"]


def test_quantity_of_nothing_is_null():
    found = quantity(np.array([np.nan]), "mag")
    assert found.pop("unit") == "mag"
    assert set(found) == {"median", "p16", "p84", "p025", "p975", "mean", "sigma"}
    assert set(found.values()) == {None}


def test_velocity_dispersion_gives_the_einstein_radius_back():
    from astropy import constants
    from astropy.cosmology import Planck18

    sigma_v = derived.physical(np.array([1.2]), 0.3, 0.9, "Planck18")["sigma_v"].draws[0]
    ratio = Planck18.angular_diameter_distance(0.3, 0.9) / Planck18.angular_diameter_distance(0.9)
    angle = 4 * np.pi * (sigma_v / constants.c.to_value("km/s")) ** 2 * ratio.value
    assert np.degrees(angle) * 3600 == pytest.approx(1.2)
