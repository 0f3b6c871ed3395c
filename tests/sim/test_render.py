from dataclasses import replace

import numpy as np
import pytest
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel

from lenspipe.lensing.kernel import render as kernel
from lenspipe.lensing.psf import moffat_kernel
from lenspipe.sim import render
from lenspipe.sim.population import Population, draw
from lenspipe.sim.scene import Light, Scene
from lenspipe.sim.survey import Survey

SURVEY = Survey()
FWHM = np.array([[1.25, 0.9, 0.8]])
MASS = {
    "theta_E": 1.6,
    "e1": 0.1,
    "e2": -0.05,
    "center_x": 0.05,
    "center_y": -0.02,
    "gamma1": 0.03,
    "gamma2": -0.02,
}
SOURCE = Light(
    layer="source",
    magnitude=np.array([22.0, 22.1, 22.3]),
    x=0.2,
    y=0.1,
    radius=0.4,
    n_sersic=1.2,
    e1=0.1,
    e2=0.2,
    plane=1,
)


@pytest.mark.parametrize("supersampling", [1, 3])
def test_equals_lenstronomy(supersampling):
    ours = render.layers([Scene("lens", (SOURCE,), MASS)], FWHM, SURVEY, supersampling)[0, 0]
    n, scale = SURVEY.n_pixels, SURVEY.pixel_scale
    corner = -(n - 1) / 2 * scale
    pixels = {"image_data": np.zeros((n, n)), "ra_at_xy_0": corner, "dec_at_xy_0": corner}
    data = ImageData(**pixels, transform_pix2angle=np.eye(2) * scale, background_rms=1, exposure_time=1)
    light = LightModel(["SERSIC_ELLIPSE"])
    shape = {"R_sersic": SOURCE.radius, "n_sersic": SOURCE.n_sersic, "e1": SOURCE.e1, "e2": SOURCE.e2}
    shape |= {"center_x": SOURCE.x, "center_y": SOURCE.y, "amp": 1.0}
    sie = {name: MASS[name] for name in ("theta_E", "e1", "e2", "center_x", "center_y")}
    shear = {"gamma1": MASS["gamma1"], "gamma2": MASS["gamma2"]}
    for b, fwhm in enumerate(FWHM[0]):
        psf = PSF(psf_type="GAUSSIAN", fwhm=fwhm, pixel_size=scale, truncation=4)
        numerics = {"supersampling_factor": supersampling, "supersampling_convolution": False}
        model = ImageModel(data, psf, LensModel(["SIE", "SHEAR"]), light, kwargs_numerics=numerics)
        flux = SURVEY.flux(SOURCE.magnitude)[b] / light.total_flux([shape])[0]
        expected = flux * model.image([sie, shear], [shape])
        assert ours[b] == pytest.approx(expected, abs=1e-6 * expected.max())


@pytest.mark.parametrize("radius", [0.0, 0.1, 0.3])
def test_compact_objects_keep_flux_place_and_width(radius):
    place = (0.11, -0.07)
    light = Light(layer="others", magnitude=np.array([20.0, 20.0, 20.0]), x=place[0], y=place[1], radius=radius)
    image = render.layers([Scene("blank", (light,))], FWHM, SURVEY, 5)[0, 2].astype(float)
    assert image.sum((1, 2)) == pytest.approx([1e4] * 3, rel=0.01)
    axis = (np.arange(SURVEY.n_pixels) - (SURVEY.n_pixels - 1) / 2) * SURVEY.pixel_scale
    x, y = (image * axis).sum((1, 2)) / image.sum((1, 2)), (image * axis[:, None]).sum((1, 2)) / image.sum((1, 2))
    # A mean over pixels before the blur, as lenstronomy takes it, moves what is narrower than a pixel a little.
    assert x == pytest.approx([place[0]] * 3, abs=0.02)
    assert y == pytest.approx([place[1]] * 3, abs=0.02)
    if radius == 0:
        width = np.sqrt((image * (axis - place[0]) ** 2).sum((1, 2)) / image.sum((1, 2)))
        assert width == pytest.approx(FWHM[0] / np.sqrt(8 * np.log(2)), rel=0.01)


def test_objects_do_not_depend_on_their_batch():
    scenes = [Scene("lens", (replace(SOURCE, x=0.05 * i),), MASS) for i in range(5)]
    fwhm = np.repeat(FWHM, 5, axis=0)
    together = render.layers(scenes, fwhm, SURVEY, 3)
    for i, scene in enumerate(scenes):
        alone = render.layers([scene], fwhm[i : i + 1], SURVEY, 3)[0]
        assert np.array_equal(alone, together[i])


def test_spiral_arms_keep_the_flux():
    disc = Light(layer="lens", magnitude=np.full(3, 19.0), x=0.0, y=0.0, radius=1.0, e1=0.1, arms=0.0)
    smooth, armed = (
        render.layers([Scene("spiral", (replace(disc, arms=a),))], FWHM, SURVEY, 5)[0, 1] for a in (0.0, 0.8)
    )
    assert armed.sum() == pytest.approx(smooth.sum(), rel=0.02)
    assert np.abs(armed - smooth).max() > 0.05 * smooth.max()


def test_a_moffat_psf_is_that_of_lenstronomy_and_stars_have_it():
    bands = tuple(band.model_copy(update={"psf_beta": 3.0}) for band in SURVEY.bands)
    survey = SURVEY.model_copy(update={"bands": bands})
    galaxy = replace(SOURCE, plane=0, layer="lens")
    ours = render.layers([Scene("elliptical", (galaxy,))], FWHM, survey, 1)[0, 1]
    star = Light(layer="others", magnitude=np.full(3, 20.0), x=0.0, y=0.0)
    stars = render.layers([Scene("blank", (star,))], FWHM, survey, 1)[0, 2]
    blank = {"image_data": np.zeros((45, 45)), "background_rms": 1, "exposure_time": 1}
    corner = -22 * survey.pixel_scale
    data = ImageData(**blank, ra_at_xy_0=corner, dec_at_xy_0=corner, transform_pix2angle=np.eye(2) * survey.pixel_scale)
    light = LightModel(["SERSIC_ELLIPSE"])
    shape = {"R_sersic": galaxy.radius, "n_sersic": galaxy.n_sersic, "e1": galaxy.e1, "e2": galaxy.e2}
    shape |= {"center_x": galaxy.x, "center_y": galaxy.y, "amp": 1.0}
    for b, fwhm in enumerate(FWHM[0]):
        kernel = moffat_kernel(fwhm, 3.0, survey.pixel_scale, 45)
        psf = PSF(psf_type="PIXEL", kernel_point_source=kernel)
        model = ImageModel(data, psf, LensModel([]), lens_light_model_class=light)
        expected = survey.flux(galaxy.magnitude)[b] / light.total_flux([shape])[0] * model.image([], [], [shape])
        assert ours[b] == pytest.approx(expected, abs=1e-6 * expected.max())
        half = kernel.shape[0] // 2
        middle = stars[b][22 - half : 23 + half, 22 - half : 23 + half] / 1e4
        assert middle == pytest.approx(kernel, abs=0.02 * kernel.max())


@pytest.mark.skipif(not kernel.available(), reason="the compiled kernel was not built here")
def test_the_kernel_and_torch_make_the_same_images():
    population = Population()
    scenes = [draw(np.random.default_rng(seed), population, SURVEY, seed % 2 == 0) for seed in range(24)]
    fwhm = np.repeat(FWHM, len(scenes), axis=0)
    compiled = render.layers(scenes, fwhm, SURVEY, 2)
    by_torch = render.layers(scenes, fwhm, SURVEY, 2, device="cpu")
    peak = by_torch.sum(1).max((1, 2, 3))
    assert (np.abs(compiled - by_torch).max((1, 2, 3, 4)) <= 1e-6 * peak).all()
