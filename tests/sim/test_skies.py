import numpy as np
import pytest

from lenspipe.sim.observe import observe
from lenspipe.sim.population import Population
from lenspipe.sim.scene import LAYERS
from lenspipe.sim.skies import Noise, Skies, objects
from lenspipe.sim.survey import Survey

SURVEY = Survey()
POPULATION = Population()


def skies(n=3, size=61):
    rng = np.random.default_rng(0)
    rms = np.tile(SURVEY.sky_rms(), (n, 1)) * np.arange(1, n + 1)[:, None]
    image = (rng.normal(size=(n, 3, size, size)) * rms[:, :, None, None]).astype(np.float32)
    image[:, :, 7, :] = np.nan
    return Skies(image, rms, np.tile([1.3, 1.0, 0.9], (n, 1)) + 0.1 * np.arange(n)[:, None])


def test_correlated_noise_keeps_its_rms():
    rms = np.array([2.0, 5.0])
    white, smooth = (
        np.stack([Noise(correlation=c).sky(np.random.default_rng(i), rms, (45, 45)) for i in range(40)])
        for c in (0, 1.2)
    )
    for sky in (white, smooth):
        assert sky.std((0, 2, 3)) == pytest.approx(rms, rel=0.03)
    neighbours = [np.mean(sky[..., 1:] * sky[..., :-1], axis=(0, 2, 3)) / rms**2 for sky in (white, smooth)]
    assert np.abs(neighbours[0]).max() < 0.02 and neighbours[1] == pytest.approx(
        [np.exp(-1 / (4 * 1.2**2))] * 2, abs=0.03
    )


def test_masked_pixels_are_nan_and_not_too_many():
    made = observe([1, 2], [True, False], POPULATION, SURVEY, 1, Noise(bad_columns=3, bad_pixels=0.05))
    lost = np.isnan(made.image).mean((2, 3))
    assert (lost > 0.02).all() and (lost < 0.5).all()
    assert np.isfinite(made.layers).all()


def test_objects_on_real_skies_have_their_psf_rms_and_no_more_noise_than_their_own():
    real = skies()
    made = observe(list(range(12)), [i % 2 == 0 for i in range(12)], POPULATION, SURVEY, 1, skies=real)
    assert len(np.unique(made.fwhm[:, 0])) == 3
    which = np.searchsorted(real.rms[:, 0], made.sky_rms[:, 0])
    assert made.fwhm == pytest.approx(real.fwhm[which])
    free = made.layers.sum((1, 2)) < 0.05 * made.sky_rms.min()
    for b in range(3):
        for i in range(12):
            pixels = made.image[i, b][free[i] & np.isfinite(made.image[i, b])]
            if len(pixels) > 800:
                robust = 1.4826 * np.median(np.abs(pixels - np.median(pixels)))
                assert robust == pytest.approx(made.sky_rms[i, b], rel=0.12)


def test_an_object_on_a_real_sky_does_not_depend_on_its_batch():
    together = observe([5, 6, 7], [True, False, True], POPULATION, SURVEY, 1, skies=skies())
    alone = observe([7], [True], POPULATION, SURVEY, 1, skies=skies())
    assert np.array_equal(alone.image[0], together.image[2], equal_nan=True)


def test_what_a_real_sky_shows_joins_the_others():
    rng = np.random.default_rng(1)
    y, x = np.indices((45, 45))
    galaxy = 60 * np.exp(-((x - 30) ** 2 + (y - 12) ** 2) / 8)
    sky = (rng.normal(size=(3, 45, 45)) + galaxy).astype(np.float32)
    found = objects(sky, np.ones(3))
    assert (found[:, 12, 30] > 50).all()
    assert ((found > 0).any(0) & (galaxy < 0.1)).mean() < 0.01
    real = Skies(np.tile(sky, (1, 1, 1, 1)) * 10, np.full((1, 3), 10.0), np.array([[1.2, 1.0, 0.9]]))
    made = observe([0], [False], POPULATION.model_copy(update={"galaxies": 0.0, "stars": 0.0}), SURVEY, 1, skies=real)
    assert made.layers[0, LAYERS.index("others")].max() > 300
