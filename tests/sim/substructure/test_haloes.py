import numpy as np
import pytest
import torch
from lenstronomy.Cosmo.lens_cosmo import LensCosmo

from lenspipe.lensing.substructure import tnfw
from lenspipe.sim.distances import Cosmology, Distances
from lenspipe.sim.substructure.config import Subhaloes
from lenspipe.sim.substructure.deflect import deflection
from lenspipe.sim.substructure.haloes import draw_haloes, draw_masses

COSMOLOGY = Cosmology()
DISTANCES = Distances.of(0.5, 1.5, COSMOLOGY)


def haloes(seed=1, **options):
    return draw_haloes(np.random.default_rng(seed), Subhaloes(**options), DISTANCES, COSMOLOGY, 3.0)


def test_masses_have_the_stated_slope_and_median():
    mass = draw_masses(np.random.default_rng(2), Subhaloes(mass=(1e6, 1e10)), 200_000)
    assert np.median(mass) == pytest.approx(2.2e6, rel=0.02)  # of a slope of -1.9; of -0.9 it would be 2.8e8
    counts, edges = np.histogram(np.log10(mass), bins=np.arange(6, 8.6, 0.5))
    slope = np.polyfit((edges[1:] + edges[:-1]) / 2, np.log10(counts), 1)[0]  # dN / dlog m
    assert slope == pytest.approx(-0.9, abs=0.03)


def test_number_is_that_of_the_mass_function_and_varies():
    options = {"sigma_sub": (0.03, 0.030001), "log10_host_mass": (13.0, 0.0)}
    found = np.array([len(haloes(seed, **options).x) for seed in range(60)])
    area = np.pi * (3.0 * DISTANCES.kpc_per_arcsec) ** 2
    expected = area * 0.03 / 0.9 * (0.1**-0.9 - 100**-0.9)  # F is 1 for such a host at redshift 0.5
    assert found.mean() == pytest.approx(expected, rel=0.02)
    assert found.std() == pytest.approx(np.sqrt(expected), rel=0.35)


def test_deflection_of_a_mass_is_lenstronomys():
    found = haloes(concentration_scatter=0.0)
    cosmos = LensCosmo(0.5, 1.5, cosmo=COSMOLOGY.astropy())
    from lenspipe.sim.substructure.haloes import concentrations

    biggest = int(found.infall_mass.argmax())
    mass = found.infall_mass[biggest]
    c = float(concentrations(np.array([mass]), 0.5, COSMOLOGY)[0])
    Rs, alpha_Rs = cosmos.nfw_physical2angle(mass, c)
    assert found.Rs[biggest] == pytest.approx(Rs, rel=2e-3)
    assert found.alpha_Rs[biggest] == pytest.approx(alpha_Rs, rel=2e-3)


def test_haloes_lie_in_their_disc_and_lose_mass():
    found = haloes()
    assert (np.hypot(found.x, found.y) <= 3.0).all()
    assert 0.3 < found.mass.sum() / found.infall_mass.sum() < 0.95
    area = np.pi * (3.0 * DISTANCES.kpc_per_arcsec) ** 2
    assert found.kappa == pytest.approx(found.mass.sum() / area / DISTANCES.sigma_critical)


def test_fast_deflection_is_the_direct_sum_less_the_sheet():
    found, n, step = haloes(), 90, 6.0 / 90
    axis = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * step
    x, y = axis[None, :], axis[:, None]
    direct = [torch.zeros(n, n, dtype=torch.float64) for _ in range(2)]
    for values in zip(found.Rs, found.alpha_Rs, found.r_trunc, found.x, found.y):
        for total, part in zip(direct, tnfw(x, y, *(torch.tensor(v) for v in values))):
            total += part
    sheet = found.kappa * (9.0 / (x * x + y * y).clamp(min=9.0))
    direct[0] -= sheet * x
    direct[1] -= sheet * y
    for ours, exact in zip(deflection(found, n, step), direct):
        assert (ours - exact).abs().max() < 0.01 * exact.abs().max()
        assert (ours - exact).abs().max() < 1e-4  # arcsec


def test_no_haloes_deflect_nothing():
    few = haloes(sigma_sub=(1e-9, 2e-9))
    assert len(few.x) == 0
    assert not any(part.any() for part in deflection(few, 20, 0.1))
