import numpy as np
import pytest
import torch

from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.infer.subpixels import FACTORS, needed, refined
from lenspipe.lensing.scene import build

SCENE = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
VECTOR = {"theta_E": 1.3, "e1": 0.1, "e2": -0.05, "center_x": 0.04, "center_y": -0.07, "gamma1": 0.02, "gamma2": 0.01}
VECTOR |= {"source_R_sersic": 0.2, "source_n_sersic": 1.2, "source_e1": 0.1, "source_center_x": 0.1}
VECTOR |= {"lens_light_R_sersic": 0.9, "lens_light_n_sersic": 3.0, "lens_light_e1": 0.1}
SCALE, SIDE, ERROR = 0.2637, 45, 0.1


def observed(seed: int = 1) -> tuple[Imaging, np.ndarray]:
    """A lens rendered on 16x16 subpixels, and its parameters."""
    vector = np.array([VECTOR.get(name, 0.0) for name in SCENE.names])
    blank = np.ones((2, SIDE, SIDE))
    data = Imaging(blank, blank > 0, SCALE, sigma=blank, psf_fwhm=np.array([0.9, 1.1]))
    layers = Likelihood(data, SCENE, supersampling=16, engine="torch").response(torch.as_tensor(vector)[None])[0]
    image = 40 * layers[0].numpy() + 60 * layers[1].numpy()
    noise = np.random.default_rng(seed).normal(size=image.shape)
    return Imaging(image + noise, data.mask, SCALE, sigma=blank, psf_fwhm=data.psf_fwhm), vector


def test_more_subpixels_where_light_peaks_and_none_where_it_is_smooth():
    data, vector = observed()
    subpixels = refined(Likelihood(data, SCENE, supersampling=2), vector, ERROR).subpixels
    assert set(np.unique(subpixels)) <= {0, *FACTORS}
    assert subpixels[22, 22] == subpixels.max() >= 8, "the lens's cusp"
    assert (subpixels == 0).mean() > 0.5
    radius = data.distance((0.0, 0.0))
    assert (subpixels[(radius > 0.8) & (radius < 1.9)] > 0).any(), "the images of the source's centre"
    assert not subpixels[radius > 4].any()


def test_the_error_is_kept_and_a_smaller_one_asks_for_more():
    data, vector = observed()
    exact = Likelihood(data, SCENE, supersampling=32, engine="torch")
    coarse = Likelihood(data, SCENE, supersampling=2)
    fine, finer = (refined(coarse, vector, error) for error in (ERROR, 0.02))
    assert (finer.subpixels >= fine.subpixels).all()
    model = exact.images(vector).model
    off = [float(((found.images(vector).model - model) ** 2).sum()) for found in (coarse, fine, finer)]
    assert off[0] > 1 > 0.3 > off[1] > off[2]


def test_every_path_knows_them():
    data, vector = observed()
    found = refined(Likelihood(data, SCENE, marginalise=True), vector, ERROR)
    plain = Likelihood(data, SCENE, marginalise=True)
    moved = torch.as_tensor(vector + 1e-3 * np.random.default_rng(2).normal(size=(5, len(vector))))
    value = found.non_negative(moved)
    assert not torch.allclose(value, plain.non_negative(moved), rtol=1e-4)
    mask = data.mask.copy()
    mask[:, :3] = False
    for other in (found.to(torch.float32), found.masked(mask), found.on(data)):
        np.testing.assert_array_equal(other.subpixels, found.subpixels)
    np.testing.assert_allclose(found.to(torch.float32).non_negative(moved), value, rtol=1e-4)
    by_torch = Likelihood(data, SCENE, marginalise=True, engine="torch", subpixels=found.subpixels)
    np.testing.assert_allclose(by_torch.non_negative(moved), value, rtol=1e-10)
    moved.requires_grad_(True)
    by_torch.non_negative(moved).sum().backward()
    assert torch.isfinite(moved.grad).all()


def test_nothing_is_needed_of_a_smooth_scene():
    vector = np.array([VECTOR.get(name, 0.0) for name in SCENE.names])
    assert not needed(SCENE, vector, np.full((2, 1, 9, 9), 1e-9), SCALE, ERROR, 1).any()


@pytest.mark.parametrize("base", [1, 2, 4, 8])
def test_never_fewer_than_the_others_have(base):
    vector = np.array([VECTOR.get(name, 0.0) for name in SCENE.names])
    found = needed(SCENE, vector, np.full((2, 1, 21, 21), 100.0), SCALE, ERROR, base)
    assert found.any()
    assert (found[found > 0] > base).all()
