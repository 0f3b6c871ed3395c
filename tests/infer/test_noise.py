import math

import numpy as np
import pytest
from scipy import ndimage

from lenspipe.infer.noise import measure_background, sigma_map, total_sigma


def galaxy(corner: float, size: int = 45) -> np.ndarray:
    """De Vaucouleurs profile whose corner pixel holds `corner`: it fills the cutout."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    r = np.maximum(np.hypot(0.84 * x, 1.2 * y), 0.3)
    image = ndimage.gaussian_filter(np.exp(-7.67 * ((r / 8) ** 0.25 - 1)), 1.7)
    return corner * image / image[0, 0]


@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e6])
@pytest.mark.parametrize("corner", [0.0, 0.3, 1.0])
def test_rms_of_a_cutout_filled_with_a_galaxy(corner, unit):
    rng = np.random.default_rng(1)
    model = galaxy(corner)
    rms = []
    for _ in range(10):
        image = unit * (model + rng.normal(size=model.shape) * np.sqrt(1 + model / 100))
        rms.append(measure_background(image, np.ones(image.shape, bool))[1] / unit)
    assert np.mean(rms) == pytest.approx(1.0, abs=0.04)


def test_sky_level_is_found_beside_objects_and_bad_pixels():
    rng = np.random.default_rng(2)
    image = rng.normal(5.0, 1.0, (61, 61))
    image[20:40, 20:40] += 50
    usable = np.ones(image.shape, bool)
    image[:5], usable[:5] = np.nan, False
    sky, rms = measure_background(image, usable)
    assert sky == pytest.approx(5.0, abs=0.15)
    assert rms == pytest.approx(1.0, abs=0.1)


def test_known_blank_pixels_decide_alone():
    rng = np.random.default_rng(3)
    image = rng.normal(2.0, 1.0, (45, 45))
    image[:, 20:] = 100 + 30 * rng.normal(size=(45, 25))
    blank = np.zeros(image.shape, bool)
    blank[:, :20] = True
    sky, rms = measure_background(image, np.ones(image.shape, bool), blank)
    assert sky == pytest.approx(2.0, abs=0.15)
    assert rms == pytest.approx(1.0, abs=0.08)


def test_too_few_pixels_give_nan():
    usable = np.zeros((20, 20), bool)
    usable[0, :10] = True
    assert all(map(math.isnan, measure_background(np.ones((20, 20)), usable)))


def test_photon_noise_is_that_of_flux_above_the_sky():
    image = np.array([[-3.0, 2.0, 12.0, np.nan]])
    sigma = total_sigma(image, 2.0, 0.5, 40.0)
    assert sigma[0].tolist() == pytest.approx([0.5, 0.5, math.sqrt(0.25 + 10 / 40), 0.5])
    assert total_sigma(image, 2.0, 0.5, math.nan)[0].tolist() == pytest.approx([0.5] * 4)


def test_given_rms_counts_the_sky_as_subtracted():
    image = np.full((9, 9), 8.0)
    sigma, sky, rms = sigma_map(image, np.ones((9, 9), bool), 3.0, 2.0)
    assert (sky, rms) == (0.0, 3.0)
    assert sigma[4, 4] == pytest.approx(math.sqrt(9 + 4))
