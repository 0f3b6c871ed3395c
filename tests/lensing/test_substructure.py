import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel

from lenspipe.lensing import substructure


def plane(n=40, half=2.0):
    axis = torch.linspace(-half, half, n, dtype=torch.float64) + 1e-3
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def numbers(*values):
    return [torch.tensor(v, dtype=torch.float64) for v in values]


@pytest.mark.parametrize("halo", [(0.1, 0.003, 0.4), (0.8, 0.05, 0.5), (0.05, 0.001, 2.0)])
def test_truncated_halo_is_lenstronomys(halo):
    x, y = plane()
    ours = substructure.tnfw(x, y, *numbers(*halo, 0.3, -0.2))
    names = ("Rs", "alpha_Rs", "r_trunc", "center_x", "center_y")
    theirs = LensModel(["TNFW"]).alpha(x.numpy(), y.numpy(), [dict(zip(names, (*halo, 0.3, -0.2)))])
    for mine, other in zip(ours, theirs):
        assert mine.numpy() == pytest.approx(other, rel=1e-6, abs=1e-6 * np.abs(other).max())


def test_halo_mass_converges_to_its_total():
    tau = torch.tensor([1.5, 5.0, 20.0], dtype=torch.float64)
    assert substructure.enclosed(torch.full_like(tau, 1e5), tau).numpy() == pytest.approx(
        substructure.total(tau).numpy(), rel=1e-3
    )


def test_string_is_a_row_of_point_masses():
    x, y = plane()
    theta_E, half, phi = 0.3, 0.9, 0.7
    ours = substructure.string(x, y, *numbers(theta_E, half, phi, 0.1, -0.3))
    count = 4000
    places = (np.arange(count) + 0.5) / count * 2 * half - half
    points = [
        {"theta_E": theta_E / np.sqrt(count), "center_x": 0.1 + s * np.cos(phi), "center_y": -0.3 + s * np.sin(phi)}
        for s in places
    ]
    theirs = LensModel(["POINT_MASS"] * count).alpha(x.numpy(), y.numpy(), points)
    across = -np.sin(phi) * (x.numpy() - 0.1) + np.cos(phi) * (y.numpy() + 0.3)
    away = np.abs(across) > 0.02
    for mine, other in zip(ours, theirs):
        assert mine.numpy()[away] == pytest.approx(other[away], rel=1e-4, abs=1e-6)
