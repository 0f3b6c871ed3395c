import math
from dataclasses import replace

import numpy as np
import pytest
from astropy import units
from astropy.modeling.physical_models import BlackBody
from pydantic import ValidationError

from lenspipe.sim.discs.config import CLASSES, Discs, Telescope
from lenspipe.sim.discs.disc import _planck, draw_disc
from lenspipe.sim.discs.simulate import beam_kernel, beam_noise, simulate

TELESCOPE = Telescope(n_pixels=64, pixel_scale=0.03, beam=(0.1, 0.15), channels=(-1.0, 0.0))
OPTIONS = Discs()


def made(numbers, classes=CLASSES, telescope=TELESCOPE):
    ids = [f"L{n}" for n in numbers]
    return simulate(ids, [70 + n for n in numbers], list(numbers), classes, OPTIONS, telescope)


def disc(seed=1, **changes):
    return replace(draw_disc(np.random.default_rng(seed), OPTIONS, True), **changes)


@pytest.fixture(scope="module")
def eight():
    return made(range(8))


def test_planes_classes_and_truth(eight):
    assert eight.image.shape == (8, 3, 64, 64)
    assert eight.bands == ("continuum", "CO -1 km/s", "CO +0 km/s")
    assert np.bincount(eight.label).tolist() == [4, 4]
    assert (np.isfinite(eight.truth["planet_mass"]) == (eight.label == 1)).all()
    assert len(eight.members["row"]) == eight.truth["n_rings"].sum()
    assert set(eight.units) >= {*eight.truth, *eight.members}


def test_everything_is_drawn_anew(eight):
    for name, values in eight.truth.items():
        known = values[np.isfinite(values)]
        if name not in ("spin", "n_rings", "spiral_contrast"):
            assert len(np.unique(known)) == len(known), name


def test_an_object_is_the_same_in_any_batch(eight):
    some = made([5, 2])
    assert some.image[0] == pytest.approx(eight.image[5], rel=1e-5, abs=1e-5)
    assert some.image[1] == pytest.approx(eight.image[2], rel=1e-5, abs=1e-5)


def test_the_disc_does_not_depend_on_the_planet():
    without, with_planet = (draw_disc(np.random.default_rng(4), OPTIONS, planet) for planet in (False, True))
    assert replace(with_planet, planet=None) == without


def test_black_body_is_astropys():
    expected = BlackBody(30 * units.K)(230.5 * units.GHz).to_value("Jy / sr")
    assert _planck(np.array([30.0]), 230.5)[0] == pytest.approx(expected, rel=1e-5)


def test_dust_adds_up_to_its_mass():
    smooth = disc(rings=(), spiral=(0.0, 1.0, 0.0), planet=None)
    r = np.geomspace(0.01, 50 * smooth.radius, 20_000)
    mass = np.trapezoid(2 * math.pi * r * smooth.dust(r, np.zeros_like(r)), r)  # g/cm^2 au^2
    assert mass * (1.495978707e13**2) / 5.9722e27 == pytest.approx(smooth.dust_mass, rel=0.01)


@pytest.mark.parametrize("spin", [1, -1])
def test_plane_and_sky_are_inverse(spin):
    d = disc(spin=spin)
    x, y = d.on_sky(60.0, 2.0)
    r, azimuth = d.in_plane(np.array(x), np.array(y), 0.0)
    assert r == pytest.approx(60.0)
    assert azimuth == pytest.approx(2.0)


def test_a_raised_surface_is_a_surface():
    d = disc(inclination=math.radians(40), gas_height=0.2, axis=0.0, spin=1, center_x=0.0, center_y=0.0, distance=100)
    r, azimuth = d.in_plane(np.array(0.3), np.array(0.4), 0.2)
    across = r * np.sin(azimuth) * math.cos(d.inclination) + 0.2 * r * math.sin(d.inclination)
    assert across == pytest.approx(40.0, rel=1e-4)
    assert r * np.cos(azimuth) == pytest.approx(30.0)


def test_rotation_is_keplerian_and_recedes_along_the_axis():
    d = disc(planet=None, stellar_mass=1.0, inclination=math.radians(30))
    velocity = d.velocity(np.array([100.0, 100.0]), np.array([0.0, math.pi]), 0.0)
    assert velocity == pytest.approx([2.97847 * 0.5, -2.97847 * 0.5], rel=1e-4)


def test_a_planet_leaves_a_gap_and_a_kink():
    with_planet = disc(rings=(), spiral=(0.0, 1.0, 0.0))
    planet = replace(with_planet.planet, azimuth=1.3)  # where gas that moves outwards moves along the line of sight
    with_planet = replace(with_planet, planet=planet)
    without = replace(with_planet, planet=None)
    ring = np.full(200, planet.radius), np.linspace(-3, 3, 200)
    assert with_planet.dust(*ring).mean() < without.dust(*ring).mean()
    r, azimuth = np.meshgrid(planet.radius * np.linspace(0.7, 1.4, 80), np.linspace(-math.pi, math.pi, 120))
    change = np.abs(with_planet.velocity(r, azimuth, 0.0) - without.velocity(r, azimuth, 0.0))
    near = (np.abs(r / planet.radius - 1) < 0.2) & (np.abs(np.angle(np.exp(1j * (azimuth - planet.azimuth)))) < 0.7)
    assert change[near].max() > 1.5 * change[~near].max() > 0


def test_beam_has_its_widths_and_keeps_the_flux():
    kernel = beam_kernel(0.2, 0.1, math.radians(30), 0.02)
    assert kernel.sum() == pytest.approx(1)
    y, x = (np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2) * 0.02
    u = x * math.cos(math.radians(30)) + y * math.sin(math.radians(30))
    assert np.sqrt((kernel * u**2).sum()) == pytest.approx(0.2 / 2.3548, rel=0.01)


def test_noise_has_its_rms_and_the_beams_correlation():
    kernel = beam_kernel(0.12, 0.12, 0.0, 0.03)
    noise = np.array([beam_noise(np.random.default_rng(k), (128, 128), kernel, 0.5) for k in range(20)])
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    # Two pixels one FWHM apart: a Gaussian convolved with itself has fallen to a quarter.
    assert (noise[:, :, 4:] * noise[:, :, :-4]).mean() / 0.25 == pytest.approx(0.25, abs=0.03)


def test_noise_is_there_once():
    quiet, loud = (
        made([0], telescope=TELESCOPE.model_copy(update={"noise": (level, level * 1.0000001)})) for level in (1e-9, 0.5)
    )
    assert (loud.image - quiet.image)[0, 0].std() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize(
    "options", [{"distance": (-100.0, 100.0)}, {"inclination": (10.0, 89.0)}, {"radius": (90.0, 50.0)}, {"mass": 1}]
)
def test_impossible_discs_are_refused(options):
    with pytest.raises(ValidationError):
        Discs(**options)


def test_a_beam_finer_than_the_pixels_is_refused():
    with pytest.raises(ValidationError, match="pixel_scale"):
        Telescope(pixel_scale=0.1)
