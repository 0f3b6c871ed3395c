"""Derived quantities against lenstronomy and against their definitions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LensModel.Profiles.sie import SIE

from lenspipe.infer import derived
from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.infer.summary import orientation_quantity, quantity
from lenspipe.lensing import light
from lenspipe.lensing.params import MASS, without_band
from lenspipe.lensing.scene import build
from tests.infer.mock import SCENE, TRUTH, VECTOR

SIE_KWARGS = {name: TRUTH[name] for name in ("theta_E", "e1", "e2", "center_x", "center_y")}


def blank(shape: tuple[int, int], scale: float, bands: int = 1) -> Imaging:
    """No data yet: noise of 1 and a narrow PSF."""
    image = np.zeros((bands, *shape))
    mask, fwhm = np.ones(image.shape, bool), np.full(bands, 2.5 * scale)
    return Imaging(image, mask, scale, sigma=np.ones(image.shape), psf_fwhm=fwhm)


def sersic_flux(radius: float, n_sersic: float) -> float:
    return float(light.sersic_flux(torch.tensor(radius), torch.tensor(n_sersic, dtype=torch.float64)))


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
    radius = float(derived.effective_einstein_radius(SCENE, VECTOR[None])[0])
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    r = (np.arange(600) + 0.5) / 600 * radius
    x, y = r[:, None] * np.cos(angle) + 0.03, r[:, None] * np.sin(angle) - 0.02
    f_xx, _, _, f_yy = SIE().hessian(x.ravel(), y.ravel(), **SIE_KWARGS)
    kappa = (0.5 * (f_xx + f_yy)).reshape(x.shape)
    assert (kappa * r[:, None]).sum() / (r.sum() * 400) == pytest.approx(1, abs=2e-3)


def test_magnification_does_not_depend_on_the_pixels():
    coarse, fine = (
        derived.photometry(Likelihood(blank((n, n), scale), SCENE), VECTOR[None]).magnification[0]
        for n, scale in ((45, 0.2637), (241, 0.05))
    )
    assert 3 < coarse < 30
    assert coarse == pytest.approx(fine, rel=0.01)


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

    radius = np.array([1.2])
    sigma_v = derived.physical(radius, radius, 0.3, 0.9, "Planck18")["sigma_v"].draws[0]
    ratio = Planck18.angular_diameter_distance(0.3, 0.9) / Planck18.angular_diameter_distance(0.9)
    angle = 4 * np.pi * (sigma_v / constants.c.to_value("km/s")) ** 2 * ratio.value
    assert np.degrees(angle) * 3600 == pytest.approx(1.2)


@pytest.mark.parametrize("profile", ["SIE", "NIE", "SIS", "EPL"])
def test_effective_radius_of_every_deflector(profile):
    """The mean of lenstronomy's convergence within the circle is 1; what is not the main deflector does not count."""
    scene = build([profile, "SHEAR", "CONVERGENCE", "SIE"], ["SERSIC"], ["SERSIC"])
    values = {"theta_E": 1.2, "gamma": 1.8, "e1": 0.2, "e2": -0.1, "s_scale": 0.1, "kappa": 0.1, "lens3_theta_E": 0.3}
    vector = np.array([values.get(name, 0.0) for name in scene.names])
    radius = derived.effective_einstein_radius(scene, vector[None])[0]
    kwargs = {name: values.get(name, 0.0) for name in MASS[profile]}
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r, angle = radius * ((nodes + 1) / 2) ** 2, np.linspace(0, 2 * np.pi, 200, endpoint=False)
    x, y = r[:, None] * np.cos(angle), r[:, None] * np.sin(angle)
    kappa = LensModel([profile]).kappa(x.ravel(), y.ravel(), [kwargs], diff=1e-5).reshape(x.shape).mean(1)
    mean = (kappa * r * weights * (nodes + 1) / 2).sum() * radius * 2 / radius**2
    assert mean == pytest.approx(1, abs=2e-4)


def test_no_effective_radius_without_a_lens():
    scene = build(["NIE"], ["SERSIC"], ["SERSIC"])
    values = {"theta_E": 0.5, "s_scale": 1.0}
    assert np.isnan(derived.effective_einstein_radius(scene, np.array([[values.get(n, 0.0) for n in scene.names]])))


def test_photometry_of_several_sources_in_several_bands():
    """Two sources of unlike colours and shapes that are free in each band: fluxes are those that were put in."""
    scene = build(
        ["EPL"], ["SERSIC", "GAUSSIAN_ELLIPSE"], ["SERSIC_ELLIPSE"], free=["source", "lens_light"], bands=("g", "r")
    )
    values = {"theta_E": 1.3, "gamma": 2.1, "source_R_sersic": 0.2, "source_n_sersic": 1.0, "source1_sigma": 0.1}
    values |= {"lens_light_R_sersic": 0.5, "lens_light_n_sersic": 2.0, "source_center_x": 0.1, "source1_center_x": -0.3}
    vector = np.array([values.get(without_band(n), 0.0) * (1.2 if n.endswith("_r") else 1.0) for n in scene.names])
    data = blank((81, 81), 0.1, bands=2)
    layers = Likelihood(data, scene).response(torch.as_tensor(vector)[None])[0].numpy()
    amplitudes = np.array([[3.0, 1.0], [2.0, 5.0], [7.0, 9.0]])  # of each component, in each band
    likelihood = Likelihood(replace(data, image=np.einsum("lb,lbhw->bhw", amplitudes, layers)), scene)
    seen = derived.photometry(likelihood, vector[None])
    per_flux = np.array([[sersic_flux(0.2, 1.0), sersic_flux(0.24, 1.2)], [1.0, 1.0]])
    source = (amplitudes[:2] * per_flux).sum(0) / 0.01
    np.testing.assert_allclose(seen.source[0], source, rtol=1e-6)
    np.testing.assert_allclose(seen.lens[0, 0], 7 * sersic_flux(0.5, 2.0) / 0.01, rtol=1e-6)
    # The arcs' flux is that of the image: the PSF moves it, but hardly off the cutout.
    np.testing.assert_allclose(seen.arc[0], np.einsum("lb,lbhw->b", amplitudes[:2], layers[:2]), rtol=0.01)
    assert seen.magnification[0] == pytest.approx(seen.arc.sum() / source.sum())
    found = derived.magnitudes(seen, np.array([25.0, np.nan]), ("g", "r"))
    assert set(found) == {"source_mag_g", "arc_mag_g", "lens_mag_g"}
    brighter = found["source_mag_g"].draws - found["arc_mag_g"].draws
    assert brighter == pytest.approx(2.5 * np.log10(seen.arc[0, 0] / seen.source[0, 0]))
