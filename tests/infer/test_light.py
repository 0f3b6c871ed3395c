"""A lens light that is no Sersic profile: found, held, projected out; the lens behind it found."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lenspipe.infer.config import SET, FitConfig
from lenspipe.infer.light import fit_gaussians
from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.infer.prepare import Prepared
from lenspipe.infer.reference import Lenstronomy
from lenspipe.infer.search import search
from lenspipe.lensing import kernel
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.lensing.scene import build

SIZE, SCALE, NOISE = 71, 0.05, 0.02
LENS = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], [])
TRUTH = {
    "theta_E": 1.1,
    "e1": 0.08,
    "e2": 0.05,
    "center_x": 0.03,
    "center_y": -0.02,
    "gamma1": 0.02,
    "gamma2": 0.01,
    "source_R_sersic": 0.12,
    "source_n_sersic": 1.1,
    "source_e1": 0.1,
    "source_e2": 0.0,
    "source_center_x": 0.15,
    "source_center_y": 0.1,
}
VECTOR = np.array([TRUTH[n] for n in LENS.names])


def true_arc(imaging: Imaging) -> np.ndarray:
    return 0.5 * Likelihood(imaging, LENS).response(torch.as_tensor(VECTOR)[None])[0, 0].numpy()


@pytest.fixture(scope="module")
def sharp() -> Prepared:
    """Bulge and disc of different ellipticities under an arc, as from space."""
    galaxy = build([], [], ["SERSIC_ELLIPSE", "SERSIC_ELLIPSE"], joint_centre=False)
    shapes = [0.3, 4.0, 0.05, 0.02, 0.03, -0.02, 1.6, 1.0, 0.15, 0.06, 0.03, -0.02]
    blank = np.zeros((1, SIZE, SIZE))
    psf = gaussian_kernel(0.1, SCALE)[None]
    empty = Imaging(blank, blank == 0, SCALE, sigma=blank + NOISE, psf=psf)
    light = Likelihood(empty, galaxy).response(torch.tensor([shapes], dtype=torch.float64))[0].numpy()
    noise = NOISE * np.random.default_rng(3).normal(size=blank.shape)
    imaging = replace(empty, image=0.6 * light[0] + 0.25 * light[1] + true_arc(empty) + 0.01 + noise)
    return Prepared(imaging, None, None, blank[0] > 0, (0.0, 0.0), (0, 0))


@pytest.fixture(scope="module")
def found(sharp):
    config = FitConfig.model_validate({"search": {"starts": 10, "radii": 12, "finalists": 3}}).resolve(0.1, 3.5)
    with torch.no_grad():
        return search(sharp, LENS, config)


def test_light_is_followed_where_the_arc_is_not(sharp):
    light = fit_gaussians(sharp, 2, 0.03)
    assert light.centre == pytest.approx((0.03, -0.02), abs=0.01)
    assert 0.03 < light.e1 < 0.16
    ring = sharp.imaging.distance(light.centre)
    away = (ring > 0.2) & (abs(ring - 1.1) > 0.5) & (ring < 1.7)
    residual = ((sharp.imaging.image - light.model)[0] / NOISE)[away]
    assert np.sqrt((residual**2).mean()) < 1.3


def test_the_lens_is_found_whatever_the_model_of_the_light(found):
    assert found.theta_E == pytest.approx(1.1, rel=0.01)
    assert found.best("center_x") == pytest.approx(found.light.centre[0], abs=0.026)
    assert set(found.other_lights) == {SET, "SERSIC_ELLIPSE + SERSIC_ELLIPSE"}
    assert list(found.other_lights.values()) == pytest.approx([1.1, 1.1], rel=0.03)


def test_images_of_the_parts_add_up(found):
    likelihood = found.objective.likelihood
    data, vector = likelihood.data, found.vector
    parts = likelihood.images(vector)
    residual = ((data.image - parts.model) / data.sigma)[data.mask]
    assert np.sum(residual**2) == pytest.approx(
        np.sum(likelihood.residuals(torch.as_tensor(vector)[None]).numpy() ** 2), rel=0.01
    )
    arc = true_arc(replace(data, templates=None))
    assert abs(parts.source - arc)[data.mask].max() < 0.15 * arc.max()
    assert (parts.model - parts.source - parts.lens_light)[data.mask].mean() == pytest.approx(0.01, abs=0.02)


def test_lenstronomy_agrees_on_the_held_light(found):
    likelihood = found.objective.likelihood
    vector = found.vector
    plain = Likelihood(likelihood.data, likelihood.scene, marginalise=False)
    theirs = Lenstronomy(likelihood.data, likelihood.scene, 1, found.light.components).log_likelihood(vector)
    assert float(plain(torch.as_tensor(vector)[None])[0]) == pytest.approx(theirs, rel=1e-7)


@pytest.mark.parametrize("engine", ["torch", "kernel"])
@pytest.mark.parametrize("bands", [1, 2])
@pytest.mark.parametrize("marginalise", [False, True])
def test_projection_is_least_squares_over_the_templates(sharp, engine, bands, marginalise):
    if engine == "kernel" and not kernel.available():
        pytest.skip("the kernel is not built")
    rng = np.random.default_rng(0)
    ring = sharp.imaging.distance((0.0, 0.0))
    shapes = [np.exp(-0.5 * (ring / s) ** 2) / s**2 for s in np.geomspace(0.05, 3, 7)]
    templates = np.stack([[*shapes, np.ones_like(ring)]] * bands)
    templates[-1, 2] = 0
    image = np.concatenate([sharp.imaging.image] * bands) * rng.uniform(0.5, 2, (bands, 1, 1))
    mask = (ring > 0.15) & (ring < 1.7) & (rng.random((bands, SIZE, SIZE)) > 0.05)
    sigma = NOISE * rng.uniform(0.8, 1.3, image.shape)
    psf = np.concatenate([sharp.imaging.psf] * bands)
    data = Imaging(image, mask, SCALE, sigma=sigma, psf=psf, templates=templates)
    vectors = torch.as_tensor(VECTOR + 0.01 * rng.normal(size=(5, len(VECTOR))))
    likelihood = Likelihood(data, LENS, engine=engine, marginalise=marginalise)
    layers = Likelihood(replace(data, templates=None), LENS, engine="torch").response(vectors).numpy()
    for k in range(len(vectors)):
        expected = 0.0
        for b in range(bands):
            columns = np.stack([layers[k, 0, b], *templates[b]])[:, mask[b]] / sigma[b][mask[b]]
            target = (image[b] / sigma[b])[mask[b]]
            others = np.linalg.lstsq(columns[1:].T, columns[0], rcond=1e-10)[0] @ columns[1:]
            left = columns[0] - others
            best = np.linalg.lstsq(columns.T, target, rcond=1e-10)[0]
            expected -= 0.5 * np.sum((target - best @ columns) ** 2)
            # The layer's curvature, in units of the typical noise squared, is all that varies with the vector.
            expected -= 0.5 * np.log((left @ left) * likelihood.unit**2) if marginalise else 0.0
        assert float(likelihood.parts(vectors)[0][k]) == pytest.approx(expected, rel=1e-9)
    residuals = likelihood.residuals(vectors)
    assert residuals.shape == (5, mask.sum())
    half = 0.5 * (residuals**2).sum(1)
    assert np.allclose(half, -Likelihood(data, LENS, engine="torch").parts(vectors)[0], rtol=1e-9)


def test_templates_need_a_noise_map(sharp):
    data = replace(sharp.imaging, sigma=None, background_rms=np.ones(1), exposure_time=np.ones(1),
                   templates=np.ones((1, 1, SIZE, SIZE)))  # fmt: skip
    with pytest.raises(ValueError, match="noise map"):
        Likelihood(data, LENS)
