import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM

from lenspipe.sim.supernovae.templates import (
    B_BAND,
    IA,
    II_P,
    TEMPLATES,
    V_BAND,
    Supernova,
    draw_supernova,
)


def at(template, phase, wavelength):
    return float(template.magnitude(np.array([phase]), wavelength)[0])


def test_type_ia_has_the_published_decline_and_late_slope():
    assert at(IA, 15.0, B_BAND) - at(IA, 0.0, B_BAND) == pytest.approx(1.1, abs=0.01)
    assert at(IA, 100.0, B_BAND) - at(IA, 60.0, B_BAND) == pytest.approx(40 * 0.0155, abs=0.02)
    assert at(IA, 0.0, B_BAND) == 0


@pytest.mark.parametrize("phase, colour", [(0.0, -0.07), (30.0, 1.08)])
def test_type_ia_has_the_published_colour(phase, colour):
    found = at(IA, phase, B_BAND) - at(IA, phase, V_BAND) + 0.11
    assert found == pytest.approx(colour, abs=0.02)


def test_type_ia_is_dim_in_the_ultraviolet():
    # U-B = -0.4 (Vega), 0.79 + 0.09 more in AB.
    assert at(IA, 0.0, 360.0) - at(IA, 0.0, B_BAND) == pytest.approx(-0.4 + 0.88, abs=0.1)


def test_plateau_then_drop():
    assert at(II_P, 50.0, V_BAND) < 0.6
    assert at(II_P, 110.0, V_BAND) > 2.2


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
def test_curves_are_finite_and_dark_before_the_explosion(template):
    phases = np.linspace(-60, 300, 400)
    for wavelength in (200.0, 400.0, 900.0):
        magnitude = template.magnitude(phases, wavelength)
        assert np.isfinite(magnitude).all()
        assert (magnitude[phases < template.curve[0][0]] > 20).all()
        assert magnitude[-1] > magnitude[phases > 0].min() + 1


def test_extinction_is_the_stated_law():
    a_b, a_v = IA.extinction(B_BAND, 0.2), IA.extinction(V_BAND, 0.2)
    assert a_b == pytest.approx(0.2 * 3.1)
    assert a_b - a_v == pytest.approx(0.2)


def test_distant_supernovae_are_stretched_redshifted_and_faint():
    redshift = 0.5
    modulus = FlatLambdaCDM(H0=70, Om0=0.3).distmod(redshift).value
    supernova = Supernova(IA, redshift, modulus, -19.05, 1.1, 0.0)
    days = np.array([0.0, 15 * 1.5 * 1.1])
    magnitude = supernova.magnitude(days, B_BAND * 1.5)
    assert magnitude[0] == pytest.approx(-19.05 + modulus - 2.5 * np.log10(1.5))
    assert magnitude[1] - magnitude[0] == pytest.approx(1.1, abs=0.01)


def test_kinds_are_drawn_as_often_as_stated():
    rng = np.random.default_rng(3)
    assert all(draw_supernova(rng, "Ia", 0.5, 42.3).template is IA for _ in range(5))
    found = [draw_supernova(rng, "CC", 0.5, 42.3).template.name for _ in range(2000)]
    assert found.count("II-P") / 2000 == pytest.approx(0.55, abs=0.04)
    assert found.count("IIn") / 2000 == pytest.approx(0.09, abs=0.03)
    assert "Ia" not in found
