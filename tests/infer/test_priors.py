"""Priors: coordinates, densities, defaults and refusals."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from lenspipe.errors import LenspipeError
from lenspipe.infer.priors import Prior, Priors
from lenspipe.lensing.scene import build

SCENE = build(["SIE", "SHEAR", "SIE"], ["SERSIC_ELLIPSE"] * 2, ["SERSIC_ELLIPSE"] * 2, sky=True)


def test_every_parameter_has_a_default_and_the_round_trip_is_exact():
    priors = Priors(SCENE.names, {})
    u = np.random.default_rng(0).uniform(priors.lower, priors.upper, size=(50, len(SCENE.names)))
    np.testing.assert_allclose(priors.inner(priors.physical(u)), u, atol=1e-12)
    assert np.isfinite(priors.log_prior(u)).all()


def test_density_is_the_declared_one():
    declared = {
        "theta_E": Prior(kind="loguniform", lower=0.5, upper=4),
        "e1": Prior(kind="normal", centre=0.1, sigma=0.2, lower=-0.5, upper=0.5),
        "source_R_sersic": Prior(kind="lognormal", centre=0.3, sigma=0.5, lower=0.01, upper=5),
    }
    names = tuple(declared)
    priors = Priors(names, declared)
    x = np.array([[0.7, 0.3, 0.2], [2.0, -0.2, 0.9]])
    # The density in sampled coordinates is the physical one times dx/du = x where u = ln x.
    expected = (
        stats.norm.logpdf(x[:, 1], 0.1, 0.2)
        + stats.lognorm.logpdf(x[:, 2], 0.5, scale=0.3)
        + np.log(x[:, 2])
        + stats.loguniform.logpdf(x[:, 0], 0.5, 4)
        + np.log(x[:, 0])
    )
    ours = priors.log_prior(priors.inner(x))
    assert ours[1] - ours[0] == pytest.approx(expected[1] - expected[0])
    outside = priors.inner(x)
    outside[0, 1] = 0.6
    assert priors.log_prior(outside)[0] == -np.inf


def test_mass_follows_light():
    names = ("e1", "e2", "lens_light_e1", "lens_light_e2")
    free, tied = Priors(names, {}), Priors(names, {}, mass_follows_light=0.1)
    u = np.array([[0.2, 0.0, 0.0, 0.0]])
    assert tied.log_prior(u)[0] - free.log_prior(u)[0] == pytest.approx(-0.5 * (0.2 / 0.1) ** 2)


def test_refusals():
    with pytest.raises(LenspipeError, match="did you mean 'theta_E'"):
        Priors(SCENE.names, {"theta_e": Prior(lower=0, upper=1)})
    with pytest.raises(ValidationError, match="must be below upper"):
        Prior(lower=1, upper=0)
    with pytest.raises(ValidationError, match="needs centre and sigma"):
        Prior(kind="normal", lower=0, upper=1)
    with pytest.raises(ValidationError, match="needs lower > 0"):
        Prior(kind="loguniform", lower=0, upper=1)
