import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LensModel.Solver.lens_equation_solver import LensEquationSolver

from lenspipe.lensing import images
from lenspipe.lensing.params import MASS

LENSES = {
    "SIE": ({"theta_E": 1.3, "e1": 0.12, "e2": -0.08, "center_x": 0.04, "center_y": -0.03},),
    "EPL": ({"theta_E": 1.1, "gamma": 2.15, "e1": -0.1, "e2": 0.15, "center_x": 0.0, "center_y": 0.02},),
    "SIS": ({"theta_E": 1.5, "center_x": 0.0, "center_y": 0.0},),
}
SHEAR = {"gamma1": 0.03, "gamma2": -0.04}


def tensors(profile, values):
    return (profile, [torch.tensor(values[name], dtype=torch.float64) for name in MASS[profile]])


@pytest.mark.parametrize("profile", LENSES)
@pytest.mark.parametrize("beta", [(0.05, 0.03), (0.3, -0.2), (-0.02, 0.35), (1.4, 0.9)])
def test_images_magnifications_and_delays_are_lenstronomys(profile, beta):
    lens = [tensors(profile, LENSES[profile][0]), tensors("SHEAR", SHEAR)]
    deflect = images.deflection(lens)
    x, y = images.solve(deflect, *beta, 4.0)
    # lenstronomy's SIE takes its derivatives as differences, good to 1e-5; its EPL has them in closed form.
    same = {"gamma": 2.0, **LENSES[profile][0]} if profile == "SIE" else LENSES[profile][0]
    theirs, kwargs = LensModel(["EPL" if profile == "SIE" else profile, "SHEAR"]), [same, SHEAR]
    their_x, their_y = LensEquationSolver(theirs).image_position_from_source(
        *beta, kwargs, min_distance=0.02, search_window=8, precision_limit=1e-12, num_iter_max=100
    )
    mine = sorted(zip(x.tolist(), y.tolist()))
    assert np.array(mine) == pytest.approx(np.array(sorted(zip(their_x, their_y))), abs=1e-7)
    mu, their_mu = images.magnification(deflect, x, y).numpy(), theirs.magnification(x.numpy(), y.numpy(), kwargs)
    sane = np.abs(mu) < 100
    assert sane.any()
    assert mu[sane] == pytest.approx(their_mu[sane], rel=1e-6)
    beta_x, beta_y = (torch.tensor(b, dtype=torch.float64) for b in beta)
    fermat = images.fermat_potential(lens, x, y, beta_x, beta_y).numpy()
    expected = theirs.fermat_potential(x.numpy(), y.numpy(), kwargs, *beta)
    assert fermat - fermat[0] == pytest.approx(expected - expected[0], rel=1e-6, abs=1e-9)


def test_a_potential_without_a_closed_form_is_refused():
    one = torch.tensor(1.0, dtype=torch.float64)
    with pytest.raises(ValueError, match="NIE"):
        images.potential([("NIE", [one] * 6)], one, one)
