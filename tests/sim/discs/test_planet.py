import numpy as np
import pytest
from scipy.integrate import quad

from lenspipe.sim.discs.planet import FLARING, Planet

PLANET = Planet(ratio=1e-3, radius=100.0, azimuth=0.5, aspect=0.08, alpha=1e-3)


def test_wake_is_the_integral_of_the_shear():
    """d phi / dr = sgn(r - r_p) ... (Omega - Omega_p) / c_s, and the planet is on its own wake."""
    assert PLANET.wake_azimuth(np.array([100.0]))[0] == pytest.approx(0.5)
    for x in (0.4, 0.8, 1.3, 2.0):
        integral = quad(lambda s: (s**-1.5 - 1) * s**FLARING, 1, x)[0] / 0.08
        found = PLANET.wake_azimuth(np.array([100.0 * x]))[0] - 0.5
        assert found == pytest.approx(np.sign(x - 1) * integral, rel=1e-9)
    inside, outside = PLANET.wake_azimuth(np.array([60.0, 160.0]))
    assert outside < 0.5 < inside  # trails outside, leads inside


def test_gap_has_kanagawas_depth_and_width():
    q, h, alpha = 1e-3, 0.08, 1e-3
    assert PLANET.gap_depth == pytest.approx(0.04 * q**2 / (h**5 * alpha))
    assert PLANET.gap_width == pytest.approx(41.0 * np.sqrt(q) * h**-0.75 * alpha**-0.25)
    deep = Planet(ratio=3e-3, radius=100.0, azimuth=0.0, aspect=0.08, alpha=1e-3)
    r = np.array([100.0, 100.0 - deep.gap_width / 2])
    bottom, edge = deep.gap(r)
    assert bottom == pytest.approx(1 / (1 + deep.gap_depth), rel=0.05)
    assert edge == pytest.approx(0.5, abs=0.02)
    assert deep.gap(np.array([100.0 + 0.9 * deep.gap_width]))[0] > 1.3  # dust is trapped beyond


def test_wake_is_strongest_at_the_planet_and_on_its_spiral():
    r = np.array([100.0, 140.0, 140.0])
    azimuth = np.array([0.5, PLANET.wake_azimuth(np.array([140.0]))[0], PLANET.wake_azimuth(np.array([140.0]))[0] + 2])
    at_planet, on, off = PLANET.wake(r, azimuth)
    assert at_planet > on > 100 * off
