import numpy as np
import pytest
import torch

from lenspipe.nets.normalise import Asinh, MinMax, Tenfold


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (2, 3, 45, 45))
    y, x = np.mgrid[:45, :45]
    image += 500 * np.exp(-0.5 * ((x - 22) ** 2 + (y - 22) ** 2) / 9)
    return image * np.array([1.0, 3.0, 0.2])[:, None, None]


def test_measures_the_noise_beside_bright_objects(image):
    result = Asinh()(torch.tensor(image)).numpy()
    assert np.sinh(result[..., :8, :]).std((-1, -2)) == pytest.approx(np.ones((2, 3)), rel=0.15)


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e5])
def test_flux_unit_and_sky_level_do_not_matter(image, unit):
    expected = Asinh()(torch.tensor(image))
    assert torch.allclose(Asinh()(torch.tensor(unit * (image + 7.0))), expected, atol=2e-3)


def test_missing_pixels_become_zero_and_spoil_nothing(image):
    expected = Asinh()(torch.tensor(image))
    holed = image.copy()
    holed[0, 1, 5:9, 30:40] = np.nan
    holed[1, 0, 0, 0] = np.inf
    result = Asinh()(torch.tensor(holed))
    assert torch.isfinite(result).all()
    assert (result[0, 1, 5:9, 30:40] == 0).all()
    assert torch.allclose(result[0, 1, 20:], expected[0, 1, 20:], atol=0.1)


@pytest.mark.parametrize("value", [0.0, 3.0, float("nan")])
def test_constant_or_empty_bands_are_zero(value):
    assert (Asinh()(torch.full((1, 1, 20, 20), value)) == 0).all()


def test_blank_edges_do_not_pass_for_noise(image):
    expected = Asinh()(torch.tensor(image))
    blank = image.copy()
    blank[..., :, 33:] = 0.0
    result = Asinh()(torch.tensor(blank))
    assert torch.allclose(result[..., 10:30], expected[..., 10:30], atol=0.2)


@pytest.mark.parametrize("kind", [MinMax, Tenfold])
@pytest.mark.parametrize("unit", [1e-12, 1e5])
def test_reference_scalings_are_free_of_units_and_leave_the_image_alone(image, kind, unit):
    given = torch.tensor(unit * image)
    before = given.clone()
    result = kind()(given)
    assert torch.equal(given, before)
    assert torch.allclose(result, kind()(torch.tensor(image)), atol=1e-3)
    assert float(result.min()) == 0 and float(result.max()) == 1


def test_minmax_keeps_the_colours(image):
    low, high = image.min((1, 2, 3)), image.max((1, 2, 3))
    expected = (image - low[:, None, None, None]) / (high - low)[:, None, None, None]
    assert np.allclose(MinMax()(torch.tensor(image)), expected, atol=1e-5)


def test_tenfold_brightens_what_lies_between_two_percentiles():
    image = torch.arange(1, 10_001.0).reshape(1, 1, 100, 100) ** 2
    x = Tenfold()(image).flatten().double()
    high = 9900.0**2
    faint, arc, core = x[:9500], x[9502:9900], x[9902:]
    assert torch.allclose(faint, (torch.arange(1, 9501.0).double() ** 2 - 1) / (high - 1), atol=1e-3)
    assert (arc == 1).all() and (core == 1).all()


@pytest.mark.parametrize("kind", [MinMax, Tenfold])
def test_reference_scalings_survive_missing_pixels(image, kind):
    holed = image.copy()
    holed[0, 1, 5:9] = np.nan
    holed[1, 0] = np.nan
    result = kind()(torch.tensor(holed))
    assert torch.isfinite(result).all() and (result[1, 0] == 0).all() and (result[0, 1, 5:9] == 0).all()
