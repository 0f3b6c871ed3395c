import sys

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel

from lenspipe.errors import LenspipeError
from lenspipe.lensing.substructure import tnfw
from lenspipe.sim.distances import Cosmology, Distances
from lenspipe.sim.substructure.by_pyhalo import draw_by_pyhalo
from lenspipe.sim.substructure.config import Lenses, Subhaloes
from lenspipe.sim.substructure.deflect import deflection
from lenspipe.sim.substructure.simulate import simulate
from tests.sim.substructure.test_simulate import SURVEY

COSMOLOGY = Cosmology()
DISTANCES = Distances.of(0.52, 1.5, COSMOLOGY)
OPTIONS = Subhaloes(population="pyhalo", sigma_sub=(0.05, 0.06), mass=(1e7, 1e9))


def drawn(seed=1, options=OPTIONS):
    return draw_by_pyhalo(np.random.default_rng(seed), options, DISTANCES, COSMOLOGY, 3.0)


@pytest.fixture
def realization(monkeypatch):
    """What pyHalo made last."""
    cdm = pytest.importorskip("pyHalo.PresetModels.cdm", reason="pyHalo is not installed (lenspipe[pyhalo])")
    found = []
    made = cdm.CDM
    monkeypatch.setattr(cdm, "CDM", lambda *args, **options: found.append(made(*args, **options)) or found[-1])
    return found


def test_deflections_are_those_of_pyhalo_in_lenstronomy(realization):
    haloes = drawn()
    names, redshifts, kwargs, _ = realization[0].lensing_quantities(add_mass_sheet_correction=False)
    assert set(names) == {"TNFW"} and len(haloes.x) == len(names) > 50
    assert np.asarray(redshifts) == pytest.approx(DISTANCES.z_lens, abs=1e-9)
    n, step = 60, 0.1
    axis = (np.arange(n) - (n - 1) / 2) * step
    x, y = np.meshgrid(axis, axis)
    expected = [a.reshape(n, n) for a in LensModel(names).alpha(x.ravel(), y.ravel(), kwargs)]
    parameters = [getattr(haloes, name) for name in ("Rs", "alpha_Rs", "r_trunc", "x", "y")]
    direct = tnfw(torch.tensor(x), torch.tensor(y), *(torch.tensor(p)[:, None, None] for p in parameters))
    sheet = haloes.kappa * (9.0 / np.maximum(x * x + y * y, 9.0))
    for ours, each, exact, place in zip(deflection(haloes, n, step), direct, expected, (x, y)):
        assert each.sum(0).numpy() == pytest.approx(exact, abs=1e-6 * np.abs(exact).max())
        assert ours.numpy() == pytest.approx(exact - sheet * place, abs=1e-4)


def test_masses_slope_and_place(realization):
    many = drawn(options=OPTIONS.model_copy(update={"sigma_sub": (0.2, 0.21)}))
    assert (np.hypot(many.x, many.y) <= 3.0).all()
    assert many.infall_mass.min() >= 1e7 and many.infall_mass.max() <= 1e9
    counts = [np.sum(many.infall_mass > m) for m in (1e7, 1e8)]
    # N(> m) of dN/dm ~ m^-1.9 up to 10^9
    expected = (10**-0.9 - 100**-0.9) / (1 - 100**-0.9)
    assert counts[1] / counts[0] == pytest.approx(expected, abs=4 * np.sqrt(expected / counts[0]))
    assert 0 < np.median(many.mass / many.infall_mass) < 0.5 and many.kappa > 0


def test_a_seed_is_one_realization_and_leaves_numpy_alone(realization):
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    first, again, other = drawn(), drawn(), drawn(2)
    assert np.array_equal(first.x, again.x) and np.array_equal(first.alpha_Rs, again.alpha_Rs)
    assert not np.array_equal(first.x[:50], other.x[:50])
    assert np.array_equal(np.random.get_state()[1], state)


def test_whole_lenses_with_them(realization):
    lenses = Lenses(subhaloes=OPTIONS)
    one, both = (simulate(list("ab")[:n], [3, 4][:n], [0, 1][:n], ("cdm",), lenses, SURVEY, 1) for n in (1, 2))
    assert one.truth["subhalo_mass"][0] == both.truth["subhalo_mass"][0] > 0
    assert np.array_equal(one.members["x"], both.members["x"][both.members["row"] == 0])


def test_without_pyhalo_the_extra_is_named(monkeypatch):
    for name in ("pyHalo", "pyHalo.defaults"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LenspipeError, match=r"needs pyHalo .*: pip install 'lenspipe\[pyhalo\]'"):
        drawn()
