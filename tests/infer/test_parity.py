"""Our likelihood against lenstronomy's, number for number."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from lenspipe.infer.likelihood import IMPOSSIBLE, Imaging, Likelihood
from lenspipe.infer.reference import Lenstronomy
from lenspipe.lensing import kernel
from lenspipe.lensing.params import without_band
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.lensing.scene import Scene, build

RANGES = {
    "theta_E": (0.4, 2.5),
    "e1": (-0.5, 0.5),
    "e2": (-0.5, 0.5),
    "s_scale": (0.0, 0.5),
    "gamma": (1.2, 2.8),
    "gamma1": (-0.2, 0.2),
    "gamma2": (-0.2, 0.2),
    "kappa": (-0.2, 0.2),
    "R_sersic": (0.0, 5.0),
    "n_sersic": (0.5, 8.0),
    "sigma": (0.1, 3.0),
}


def bounds(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each parameter of `scene`; positions within half an arcsecond."""
    names = map(without_band, scene.names)
    ranges = [next((v for k, v in RANGES.items() if n.endswith(k)), (-0.5, 0.5)) for n in names]
    lower, upper = zip(*ranges)
    return np.array(lower), np.array(upper)


def mock(bands: int, shape: tuple[int, int], psf: str, noise: str, masked: bool, flux: float = 1.0) -> Imaging:
    """Noise, a lens-like blob and a masked neighbour: parity needs realistic numbers, not a realistic lens."""
    rng = np.random.default_rng(bands)
    scale = 0.2637 if max(shape) < 100 else 0.05
    y, x = np.mgrid[: shape[0], : shape[1]]
    r = np.hypot(x - shape[1] / 2, y - shape[0] / 2)
    rms = np.array([2.5, 3.5, 6.0][:bands])
    image = (
        400 * np.exp(-r / 4)
        + 60 * np.exp(-(((r - 8) / 2) ** 2))
        + rms[:, None, None] * rng.normal(size=(bands, *shape))
    )
    mask = np.ones((bands, *shape), bool)
    if masked:
        mask[:, 5:12, 30:40] = False
        mask[0, :3] = False
        image[0, :3] = np.nan
    sigma = np.sqrt(rms[:, None, None] ** 2 + np.clip(np.nan_to_num(image), 0, None) / 90)
    fwhm = np.array([1.25, 0.9, 0.8][:bands]) * scale / 0.2637
    return Imaging(
        image=flux * image,
        mask=mask,
        pixel_scale=scale,
        sigma=flux * sigma if noise == "map" else None,
        background_rms=flux * rms if noise == "poisson" else None,
        exposure_time=np.full(bands, 90.0) / flux if noise == "poisson" else None,
        psf_fwhm=fwhm if psf == "gaussian" else None,
        psf=np.stack([gaussian_kernel(f, scale) for f in fwhm * 0 + fwhm.max()]) if psf == "pixel" else None,
    )


CASES = [
    *product([1, 3], [(45, 45)], ["gaussian", "pixel"], ["map", "poisson"], [False, True], [False, True]),
    (2, (40, 40), "pixel", "map", True, False),
    (1, (121, 121), "pixel", "map", True, True),
]


@pytest.fixture(params=["torch", "kernel"])
def engine(request) -> str:
    if request.param == "kernel" and not kernel.available():
        pytest.skip("the compiled kernel was not built")
    return request.param


@pytest.mark.parametrize(("bands", "shape", "psf", "noise", "masked", "sky"), CASES)
def test_log_likelihood_is_lenstronomys(bands, shape, psf, noise, masked, sky, engine):
    data = mock(bands, shape, psf, noise, masked)
    scene = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"], sky=sky)
    lower, upper = bounds(scene)
    count = 200 if shape == (45, 45) else 40
    vectors = np.random.default_rng(3).uniform(lower, upper, size=(count, len(lower)))
    reference = Lenstronomy(data, scene)
    expected = np.array([reference.log_likelihood(v) for v in vectors])
    value, negative = Likelihood(data, scene, engine=engine).parts(torch.as_tensor(vectors))
    bands_penalised = np.round(-expected / 1e8).clip(0)
    assert 0 < (bands_penalised > 0).mean() < 1, "the draw must hold both kinds"
    np.testing.assert_array_equal(negative.numpy(), bands_penalised)
    exact = value.numpy() - 1e8 * negative.numpy()
    free = bands_penalised == 0
    error = np.abs(exact - expected)[free] / np.maximum(1, np.abs(expected[free]) / 1e3)
    assert error.max() <= 1e-9
    # A penalty of 1e8 leaves 1e-8 of room in a float64.
    np.testing.assert_allclose(exact[~free], expected[~free], rtol=1e-14, atol=1e-6)


def scaled_error(
    data: Imaging, scene: Scene, vectors: np.ndarray, supersampling: int = 1, engine="auto", subpixels=None
) -> np.ndarray:
    """(K,) |log L - lenstronomy's| / max(1, |log L| / 1000) where no amplitude is negative; those must agree too."""
    reference = Lenstronomy(data, scene, supersampling, subpixels=subpixels)
    expected = np.array([reference.log_likelihood(v) for v in vectors])
    likelihood = Likelihood(data, scene, supersampling=supersampling, engine=engine, subpixels=subpixels)
    value, negative = likelihood.parts(torch.as_tensor(vectors))
    np.testing.assert_array_equal(negative.numpy(), np.round(-expected / 1e8).clip(0))
    free = negative.numpy() == 0
    assert free.any(), "the draw must hold vectors without a penalty"
    return (np.abs(value.numpy() - expected) / np.maximum(1, np.abs(expected) / 1e3))[free]


ELLIPTICITIES = [0.0, 1e-9, 0.1, 0.3, 0.66]
ANGLES = [0.0, 1e-9, 31.0, 45.0, 90.0, 90 + 1e-7, 137.0]


@pytest.mark.parametrize("psf", ["gaussian", "pixel"])
@pytest.mark.parametrize("profile", ["SIE", "NIE", "SIS", "EPL"])
def test_every_deflector_at_every_shape_is_lenstronomys(profile, psf):
    """q = 1 to 0.2 and all quadrants, axes included; each a vector of its own."""
    data = mock(1, (31, 31), psf, "map", True)
    scene = build([profile, "SHEAR", "CONVERGENCE"], ["SERSIC_ELLIPSE"], ["SERSIC"])
    lower, upper = bounds(scene)
    shapes = list(product(ELLIPTICITIES, ANGLES))
    vectors = np.random.default_rng(1).uniform(lower, upper, size=(len(shapes), len(lower)))
    vectors[:, scene.index("source_R_sersic")] += 0.1
    for prefix in ("", "source_"):
        for vector, (size, degrees) in zip(vectors, shapes):
            for e, part in (("e1", np.cos), ("e2", np.sin)):
                if prefix + e in scene.names:
                    # Not -0, of which lenstronomy's arctan2 would make a quarter turn.
                    vector[scene.index(prefix + e)] = size * part(np.radians(2 * degrees)) + 0.0
    assert scaled_error(data, scene, vectors).max() <= 1e-9


@pytest.mark.parametrize(("size", "bands", "psf"), [(45, 3, "gaussian"), (41, 2, "pixel"), (121, 1, "pixel")])
@pytest.mark.parametrize(
    ("lens", "source", "lens_light", "sky"),
    [
        (["EPL", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"], False),
        (["NIE", "CONVERGENCE", "SIS"], ["SERSIC"], ["GAUSSIAN_ELLIPSE"], True),
        (["SIS", "SHEAR", "EPL"], ["GAUSSIAN_ELLIPSE"], ["SERSIC_ELLIPSE", "SERSIC"], True),
    ],
)
def test_mixed_scenes_of_both_surveys_sizes(lens, source, lens_light, sky, size, bands, psf):
    data = mock(bands, (size, size), psf, "poisson" if bands > 1 else "map", True)
    scene = build(lens, source, lens_light, sky=sky)
    lower, upper = bounds(scene)
    vectors = np.random.default_rng(2).uniform(lower, upper, size=(6 if size > 100 else 15, len(lower)))
    assert scaled_error(data, scene, vectors).max() <= 1e-9


@pytest.mark.parametrize("psf", ["gaussian", "pixel"])
@pytest.mark.parametrize("free", [["lens_light"], ["source"], ["source", "lens_light"]])
def test_shapes_free_in_each_band(free, psf):
    """lenstronomy has a profile for each band then."""
    data = mock(3, (31, 31), psf, "poisson", True)
    scene = build(["EPL"], ["SERSIC_ELLIPSE"], ["SERSIC", "GAUSSIAN_ELLIPSE"], True, free=free, bands=("g", "r", "i"))
    lower, upper = bounds(scene)
    vectors = np.random.default_rng(8).uniform(lower, upper, size=(15, len(lower)))
    assert scaled_error(data, scene, vectors, supersampling=2).max() <= 1e-9


@pytest.mark.parametrize("supersampling", [1, 2])
@pytest.mark.parametrize("psf", ["gaussian", "pixel"])
def test_pixels_with_subpixels_of_their_own(psf, supersampling, engine):
    data = mock(2, (31, 31), psf, "poisson", True)
    scene = build(["EPL", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"], sky=True)
    lower, upper = bounds(scene)
    vectors = np.random.default_rng(9).uniform(lower, upper, size=(15, len(lower)))
    subpixels = np.random.default_rng(9).choice([0, 0, 0, 4, 8, 16], size=data.shape)
    assert scaled_error(data, scene, vectors, supersampling, engine, subpixels).max() <= 1e-9


@pytest.mark.parametrize("psf", ["gaussian", "pixel"])
def test_supersampling_is_lenstronomys(psf, engine):
    data = mock(2, (45, 45), psf, "poisson", True)
    scene = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
    lower, upper = bounds(scene)
    vectors = np.random.default_rng(7).uniform(lower, upper, size=(20, len(lower)))
    reference = Lenstronomy(data, scene, supersampling=3)
    expected = np.array([reference.log_likelihood(v) for v in vectors])
    value = Likelihood(data, scene, supersampling=3, engine=engine)(torch.as_tensor(vectors)).numpy()
    free = expected > -1e7
    assert free.any()
    np.testing.assert_allclose(value[free], expected[free], rtol=1e-11)


@pytest.mark.parametrize(("source", "light"), [(2, 1), (1, 2), (2, 2)])
def test_several_components(source, light, engine):
    data = mock(2, (45, 45), "gaussian", "poisson", True)
    scene = build(["SIE", "SHEAR", "SIE"], ["SERSIC_ELLIPSE"] * source, ["SERSIC_ELLIPSE"] * light, sky=True)
    lower, upper = bounds(scene)
    vectors = np.random.default_rng(4).uniform(lower, upper, size=(60, len(lower)))
    reference = Lenstronomy(data, scene)
    expected = np.array([reference.log_likelihood(v) for v in vectors])
    value, negative = Likelihood(data, scene, engine=engine).parts(torch.as_tensor(vectors))
    np.testing.assert_array_equal(negative.numpy(), np.round(-expected / 1e8).clip(0))
    free = negative.numpy() == 0
    assert free.any()
    # Two nearly equal Sersics make M ill-conditioned: both codes then lose the same digits in different order.
    np.testing.assert_allclose(value.numpy()[free], expected[free], rtol=1e-9)


def test_float32_and_tiny_fluxes(engine):
    scene = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
    lower, upper = bounds(scene)
    middle, width = (lower + upper) / 2 + 0.03, upper - lower
    vectors = middle + 0.05 * width * np.random.default_rng(5).uniform(-1, 1, size=(50, len(lower)))
    data = mock(3, (45, 45), "gaussian", "poisson", True)
    exact, _ = Likelihood(data, scene, engine=engine).parts(torch.as_tensor(vectors))
    for flux in (1.0, 1e-12, 1e5):
        data = mock(3, (45, 45), "gaussian", "poisson", True, flux)
        single, _ = Likelihood(data, scene, dtype=torch.float32, engine=engine).parts(torch.as_tensor(vectors))
        # Of logL: so far from a fit the pixels carry a chi-square of 1e5.
        np.testing.assert_allclose(single.numpy(), exact.numpy(), rtol=1e-5)


def test_nothing_but_numbers_leaves(engine):
    data = mock(1, (45, 45), "gaussian", "map", False)
    scene = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
    vectors = torch.full((3, len(scene.names)), float("nan"), dtype=torch.float64)
    vectors[1] = 0.0
    vectors[2] = 1e300
    for dtype in (torch.float64, torch.float32):
        likelihood = Likelihood(data, scene, dtype=dtype, engine=engine)
        assert torch.isfinite(likelihood(vectors)).all()
        assert likelihood.parts(vectors)[0][0] == IMPOSSIBLE
        assert torch.isfinite(likelihood.residuals(vectors)).all()


EXTREMES = {
    "theta_E": [0.0, 1e-8, 50.0, -1.0],
    "e1": [0.0, 0.9, 0.99999, 1.0, 3.0],
    "e2": [0.0, -0.9, -1.0],
    "s_scale": [0.0, 1e-12, 1e3, -1.0],
    "gamma": [1.0, 1.2, 2.8, 3.0, 5.0, -2.0],
    "gamma1": [0.0, 1.0, -1.0],
    "gamma2": [0.0, 1.0],
    "kappa": [0.0, 1.0, -3.0],
    "R_sersic": [0.0, 1e-12, 1e6, -1.0],
    "n_sersic": [0.5, 8.0, 0.01, 0.0, 100.0, -1.0],
    "sigma": [0.0, 1e-12, 1e-30, 1e6, -1.0],
}
ANYWHERE = [0.0, 1e-12, 1e4, 1e200, -1e300, float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("profile", "light"),
    [
        ("SIE", ["SERSIC_ELLIPSE", "SERSIC"]),
        ("NIE", ["GAUSSIAN_ELLIPSE", "SERSIC_ELLIPSE"]),
        ("SIS", ["SERSIC", "GAUSSIAN_ELLIPSE"]),
        ("EPL", ["SERSIC_ELLIPSE", "GAUSSIAN_ELLIPSE"]),
    ],
)
def test_no_vector_whatever_leads_to_nan(profile, light, dtype, engine):
    """Random vectors in which one to all parameters are extreme or no numbers; the source often on the lens' centre."""
    data = mock(2, (15, 15), "gaussian", "poisson", False)
    scene = build([profile, "SHEAR", "CONVERGENCE"], light[:1], light[1:], sky=True)
    lower, upper = bounds(scene)
    rng = np.random.default_rng(9)
    vectors = rng.uniform(lower, upper, size=(60, len(lower)))
    vectors[::3, [i for i, n in enumerate(scene.names) if "center" in n]] = 0.0
    for i, name in enumerate(scene.names):
        values = next((v for k, v in EXTREMES.items() if name.endswith(k)), []) + ANYWHERE
        chosen = rng.random(len(vectors)) < rng.choice([0.05, 0.3, 1.0], p=[0.7, 0.25, 0.05], size=len(vectors))
        vectors[chosen, i] = rng.choice(values, size=chosen.sum())
    likelihood = Likelihood(data, scene, dtype=dtype, engine=engine, marginalise=True)
    rows = torch.as_tensor(vectors)
    found = [likelihood(rows), *likelihood.parts(rows), likelihood.non_negative(rows), likelihood.residuals(rows)]
    assert all(torch.isfinite(values).all() for values in found)
    assert (found[1][torch.isnan(rows).any(1)] == IMPOSSIBLE).all()
    assert (found[1] > IMPOSSIBLE).any()


def test_non_negative_amplitudes_are_the_best_there_are(engine):
    data = mock(2, (45, 45), "gaussian", "map", True)
    scene = build(["SIE"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"], sky=True)
    lower, upper = bounds(scene)
    vectors = torch.as_tensor(np.random.default_rng(6).uniform(lower, upper, size=(30, len(lower))))
    likelihood = Likelihood(data, scene, engine=engine)
    value, negative = likelihood.parts(vectors)
    ours = likelihood.non_negative(vectors)
    assert 0 < (negative > 0).double().mean() < 1
    torch.testing.assert_close(ours[negative == 0], value[negative == 0], rtol=1e-12, atol=1e-9)
    layers = likelihood.response(vectors).flatten(-2)
    for k in torch.nonzero(negative > 0).flatten().tolist():
        chi2 = 0.0
        for b in range(2):
            root = torch.sqrt(likelihood.weight[b].flatten())
            design = (layers[k, :, b] * root).T.numpy()
            free = [(0, np.inf), (0, np.inf), (-np.inf, np.inf)]
            target = (likelihood.image[b].flatten() * root).numpy()
            found = lsq_linear(design, target, tuple(zip(*free)), tol=1e-14)
            chi2 += 2 * found.cost
        assert float(ours[k]) == pytest.approx(-0.5 * chi2, rel=1e-8)
