"""Deflections against lenstronomy's, where they are hardest, and their derivatives."""

from itertools import product

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel

from lenspipe.lensing import mass
from lenspipe.lensing.grid import axes
from lenspipe.lensing.params import MASS

AXIS = np.linspace(-2, 2, 11)  # through the lens' centre, and on its axes
VALUES = {"theta_E": 1.1, "e1": 0.2, "e2": -0.3, "s_scale": 0.05, "gamma": 2.2, "gamma1": 0.1, "gamma2": -0.05}
VALUES |= {"kappa": 0.1, "center_x": 0.1, "center_y": -0.07}


def ours(profile: str, values: dict[str, float], dtype: torch.dtype = torch.float64) -> np.ndarray:
    x, y = torch.as_tensor(AXIS, dtype=dtype)[None], torch.as_tensor(AXIS, dtype=dtype)[:, None]
    parameters = [torch.full((1, 1, 1), values[name], dtype=dtype) for name in MASS[profile]]
    alpha = torch.broadcast_tensors(*mass.DEFLECTION[profile](x, y, *parameters))
    return torch.stack(alpha).squeeze(1).double().numpy()


def theirs(profile: str, values: dict[str, float]) -> np.ndarray:
    x, y = (a.ravel() for a in np.meshgrid(AXIS, AXIS))
    found = LensModel([profile]).alpha(x, y, [{name: values[name] for name in MASS[profile]}])
    return np.stack(found).reshape(2, len(AXIS), len(AXIS))


@pytest.mark.parametrize("profile", MASS)
def test_deflection_is_lenstronomys(profile):
    np.testing.assert_allclose(ours(profile, VALUES), theirs(profile, VALUES), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours(profile, VALUES, torch.float32), theirs(profile, VALUES), rtol=0, atol=2e-6)


@pytest.mark.parametrize("gamma", [1.2, 1.6, 2.0, 2.4, 2.8])
@pytest.mark.parametrize("q", [0.2, 0.4, 0.7, 0.99, 1.0])
def test_epl_converges_over_its_range(gamma, q):
    """Centre on a pixel and beside it, all quadrants of the angle."""
    modulus = (1 - q) / (1 + q)
    for degrees, centre in product((0.0, 20.0, 90.0, 160.0), (0.0, 1e-5)):
        angle = 2 * np.radians(degrees)
        shape = {"e1": modulus * np.cos(angle), "e2": modulus * np.sin(angle), "center_x": centre, "center_y": 0.0}
        values = {"theta_E": 1.3, "gamma": gamma, **shape}
        expected = theirs("EPL", values)
        scale = np.maximum(1, np.abs(expected))
        assert (np.abs(ours("EPL", values) - expected) / scale).max() < 1e-10


def test_epl_too_flat_is_no_number():
    assert np.isnan(ours("EPL", VALUES | {"e1": 0.95, "e2": 0.0})).all()


def test_isothermal_profiles_agree():
    coreless = VALUES | {"s_scale": 0.0, "gamma": 2.0}
    np.testing.assert_allclose(ours("NIE", coreless), ours("SIE", coreless), atol=1e-14)
    np.testing.assert_allclose(ours("EPL", coreless), ours("SIE", coreless), atol=1e-8)
    round_one = coreless | {"e1": 0.0, "e2": 0.0}
    np.testing.assert_allclose(ours("EPL", round_one), ours("SIS", round_one), atol=1e-12)


@pytest.mark.parametrize("profile", ["SIE", "NIE", "SIS", "EPL"])
def test_a_round_lens_on_a_pixel_has_a_finite_gradient(profile):
    x, y = axes(5, 5, 0.5)
    values = VALUES | {"e1": 0.0, "e2": 0.0, "center_x": 0.0, "center_y": 0.0}
    parameters = [torch.full((1, 1, 1), values[n], dtype=torch.float64, requires_grad=True) for n in MASS[profile]]
    sum(alpha.square().sum() for alpha in mass.DEFLECTION[profile](x, y, *parameters)).backward()
    assert all(torch.isfinite(p.grad) for p in parameters)


@pytest.mark.parametrize("profile", MASS)
def test_gradients_are_those_of_the_deflection(profile):
    x, y = axes(4, 4, 0.5)
    parameters = [torch.full((1, 1, 1), VALUES[n], dtype=torch.float64, requires_grad=True) for n in MASS[profile]]
    assert torch.autograd.gradcheck(lambda *p: mass.DEFLECTION[profile](x, y, *p), parameters)
