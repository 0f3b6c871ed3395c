import pytest
from lenstronomy.Cosmo.lens_cosmo import LensCosmo

from lenspipe.sim.distances import Cosmology, Distances


def test_scales_are_lenstronomys():
    cosmology = Cosmology(H0=67.0, Om0=0.31)
    ours = Distances.of(0.45, 1.7, cosmology)
    theirs = LensCosmo(0.45, 1.7, cosmo=cosmology.astropy())
    assert ours.theta_E(240.0) == pytest.approx(theirs.sis_sigma_v2theta_E(240.0), rel=1e-6)
    assert ours.delay_days == pytest.approx(theirs.time_delay_units(1.0), rel=1e-6)
    # lenstronomy's G and solar mass are older.
    assert ours.sigma_critical == pytest.approx(theirs.sigma_crit * 1e-6, rel=1e-3)


def test_distances_are_not_differences_and_a_point_lens_holds_its_mass():
    d = Distances.of(0.5, 1.0, Cosmology())
    assert d.between != pytest.approx(d.to_source - d.to_lens, rel=0.1)
    radius = d.point_theta_E(1e10) * d.kpc_per_arcsec
    assert 3.141592653589793 * radius**2 * d.sigma_critical == pytest.approx(1e10)


@pytest.mark.parametrize("redshifts", [(-0.1, 1.0), (0.0, 1.0), (1.0, 0.5)])
def test_impossible_redshifts_are_refused(redshifts):
    with pytest.raises(ValueError, match="0 < z_lens < z_source"):
        Distances.of(*redshifts, Cosmology())
