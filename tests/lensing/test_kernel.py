"""The compiled kernel against torch, which is the definition, on every instruction set this CPU has."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from lenspipe.errors import LenspipeError
from lenspipe.infer.likelihood import IMPOSSIBLE, Imaging, Likelihood
from lenspipe.lensing import kernel
from lenspipe.lensing.psf import gaussian_kernel
from lenspipe.lensing.scene import Scene, build
from tests.infer.test_parity import bounds

needs_kernel = pytest.mark.skipif(not kernel.available(), reason="the compiled kernel was not built")


@pytest.fixture(params=kernel.INSTRUCTION_SETS)
def instructions(request, monkeypatch) -> str:
    if request.param not in kernel.instruction_sets():
        pytest.skip(f"no {request.param} here")
    monkeypatch.setenv("LENSPIPE_KERNEL", request.param)
    return request.param


def imaging(shape: tuple[int, int], bands: int = 2, psf: str = "gaussian", poisson: bool = True) -> Imaging:
    """A lens-like image with used pixels that differ from band to band and fill only a part of the cutout."""
    rng = np.random.default_rng(7)
    rms = np.full(bands, 3.0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    r = np.hypot(x - shape[1] / 2, y - shape[0] / 2)
    image = 300 * np.exp(-r / 3) + 40 * np.exp(-(((r - 7) / 2) ** 2)) + rng.normal(scale=3, size=(bands, *shape))
    mask = np.broadcast_to(r < 0.4 * max(shape), (bands, *shape)).copy()
    mask[0, : shape[0] // 3] = False
    fwhm = np.linspace(0.7, 1.1, bands)
    kernels = np.stack([gaussian_kernel(1.0, 0.25) * rng.uniform(0.5, 1, size=(15, 15)) for _ in range(bands)])
    return Imaging(
        image=image,
        mask=mask,
        pixel_scale=0.25,
        sigma=None if poisson else rng.uniform(2, 4, size=image.shape),
        background_rms=rms if poisson else None,
        exposure_time=np.full(bands, 90.0) if poisson else None,
        psf_fwhm=fwhm if psf == "gaussian" else None,
        psf=kernels if psf == "pixel" else None,
    )


def draw(scene: Scene, count: int, spread: float = 1.0) -> torch.Tensor:
    lower, upper = bounds(scene)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    return torch.as_tensor(middle + spread * half * np.random.default_rng(1).uniform(-1, 1, (count, len(lower))))


def scene_of(lens: int, source: int, light: int, sky: bool) -> Scene:
    deflectors = ["SIE", "SHEAR", "SIE", "SHEAR"][:lens]
    return build(deflectors, ["SERSIC_ELLIPSE"] * source, ["SERSIC_ELLIPSE"] * light, sky=sky)


@pytest.mark.parametrize("psf", ["gaussian", "pixel"])
@pytest.mark.parametrize(
    ("shape", "poisson", "scene", "supersampling"),
    [
        ((45, 45), True, (2, 1, 1, False), 1),
        ((45, 45), False, (2, 1, 1, True), 3),
        ((33, 50), True, (4, 2, 1, True), 2),
        ((17, 16), False, (1, 1, 0, False), 1),
        ((7, 9), True, (1, 0, 1, True), 1),
        ((64, 31), True, (3, 3, 4, True), 1),
    ],
)
def test_equals_torch(instructions, shape, poisson, psf, scene, supersampling):
    data, scene = imaging(shape, psf=psf, poisson=poisson), scene_of(*scene)
    options = {"supersampling": supersampling, "marginalise": True}
    if supersampling > 1:
        options["subpixels"] = np.random.default_rng(5).choice([0, 0, 4, 8], size=shape)
    ours = Likelihood(data, scene, engine="kernel", **options)
    theirs = Likelihood(data, scene, engine="torch", **options)
    assert (ours.engine, theirs.engine, ours.kernel.instructions) == ("kernel", "torch", instructions)
    vectors = draw(scene, 40)
    (value, negative), (expected, expected_negative) = ours.parts(vectors), theirs.parts(vectors)
    crowded = len(scene.amplitudes) > 4  # many alike components: M is nearly singular, and so is the comparison
    np.testing.assert_allclose(value, expected, rtol=1e-6 if crowded else 1e-10)
    np.testing.assert_array_equal(negative, expected_negative)
    if not crowded:
        for non_negative in (True, False):
            found, sought = ours.residuals(vectors, non_negative), theirs.residuals(vectors, non_negative)
            assert found.shape == (40, int(data.mask.sum()))
            np.testing.assert_allclose(found, sought, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("lens", "source", "light"),
    [
        (["EPL", "SHEAR", "CONVERGENCE"], ["SERSIC_ELLIPSE"], ["SERSIC", "GAUSSIAN_ELLIPSE"]),
        (["NIE", "SIS", "SIE"], ["GAUSSIAN_ELLIPSE"], ["SERSIC_ELLIPSE"]),
        (["SIS", "EPL"], ["SERSIC", "SERSIC_ELLIPSE"], ["GAUSSIAN_ELLIPSE"]),
    ],
)
def test_every_profile_equals_torch(instructions, lens, source, light):
    data, scene = imaging((24, 31)), build(lens, source, light, sky=True)
    ours, theirs = Likelihood(data, scene, engine="kernel"), Likelihood(data, scene, engine="torch")
    vectors = draw(scene, 20)
    if "EPL" in lens:  # the longest series there is, a round lens, and one too flat for it
        column = scene.lens[lens.index("EPL")].column("e1")
        vectors[:3, column] = torch.tensor([0.7, 0.0, 0.95], dtype=torch.float64)
    np.testing.assert_allclose(ours.parts(vectors)[0], theirs.parts(vectors)[0], rtol=1e-10)
    exact = theirs.parts(draw(scene, 20, spread=0.1))[0]
    single = Likelihood(data, scene, dtype=torch.float32, engine="kernel").parts(draw(scene, 20, spread=0.1))[0]
    np.testing.assert_allclose(single, exact, rtol=1e-4)


TRUTH = {
    "theta_E": 1.6,
    "gamma": 2.1,
    "s_scale": 0.1,
    "e1": 0.1,
    "e2": 0.08,
    "center_x": 0.02,
    "center_y": -0.03,
    "gamma1": 0.03,
    "gamma2": -0.02,
    "source_R_sersic": 0.4,
    "source_n_sersic": 1.2,
    "source_e1": 0.1,
    "source_e2": -0.15,
    "source_center_x": 0.1,
    "source_center_y": 0.15,
    "lens_light_sigma": 0.9,
    "lens_light_R_sersic": 1.2,
    "lens_light_n_sersic": 3.5,
    "lens_light_e1": 0.08,
    "lens_light_e2": 0.06,
}


@pytest.mark.parametrize("psf", ["gaussian", "pixel"])
@pytest.mark.parametrize(
    ("lens", "light", "size", "tolerance"),
    [("SIE", "SERSIC_ELLIPSE", 45, 2e-3), ("EPL", "SERSIC", 45, 2e-3), ("NIE", "GAUSSIAN_ELLIPSE", 121, 2e-2)],
)
def test_float32_near_a_fit(instructions, psf, lens, light, size, tolerance):
    """Draws from the posterior (Laplace's approximation) of a mock, of DES' or HST's size: where a sampler lives."""
    scene = build([lens, "SHEAR"], ["SERSIC_ELLIPSE"], [light])
    data = imaging((size, size), bands=3 if size < 100 else 1, psf=psf)
    data = replace(data, pixel_scale=11.25 / size)
    truth = torch.tensor([[TRUTH[n] for n in scene.names]], dtype=torch.float64)
    unit = torch.eye(len(scene.names), dtype=torch.float64)
    response = Likelihood(data, scene, engine="torch").response(truth)[0]
    model = torch.einsum("l,lbhw->bhw", torch.tensor([120.0, 150.0], dtype=torch.float64), response).numpy()
    noise = np.sqrt(3.0**2 + model / 90)
    data = replace(data, image=model + noise * np.random.default_rng(2).normal(size=model.shape))
    exact = Likelihood(data, scene, engine="torch")
    steps = exact.residuals(truth + 1e-5 * unit) - exact.residuals(truth)
    scatter = torch.linalg.cholesky(torch.linalg.inv(steps @ steps.T / 1e-10))
    count = 50 if size < 100 else 15
    vectors = truth + torch.randn(count, len(unit), dtype=torch.float64, generator=torch.manual_seed(1)) @ scatter.T
    expected, _ = exact.parts(vectors)
    assert expected.std() < 10, "these are not near the posterior"
    single, _ = Likelihood(data, scene, dtype=torch.float32, engine="kernel").parts(vectors)
    assert (single - expected).abs().max() < tolerance


def test_flat_and_round_lenses_and_tiny_sources(instructions):
    scene = scene_of(2, 1, 1, False)
    data = imaging((45, 45))
    vectors = draw(scene, 8, spread=0.1)
    at = scene.index
    vectors[0, [at("e1"), at("e2")]] = 0.0
    vectors[1, at("e1")] = 0.9999
    vectors[2, [at("e1"), at("e2")]] = torch.tensor([-0.3, 0.0], dtype=torch.float64)
    vectors[3, at("source_R_sersic")] = 0.0
    vectors[4, at("source_center_x")] = 1e6
    vectors[5, [at("center_x"), at("center_y")]] = 0.0  # a pixel's centre is the lens' centre
    vectors[6, at("source_n_sersic")] = 0.02
    expected, expected_negative = Likelihood(data, scene, engine="torch").parts(vectors)
    value, negative = Likelihood(data, scene, engine="kernel").parts(vectors)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    np.testing.assert_array_equal(negative, expected_negative)
    single, _ = Likelihood(data, scene, dtype=torch.float32, engine="kernel").parts(vectors)
    assert torch.isfinite(single).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_number_is_impossible_and_spoils_no_other(instructions, dtype):
    scene = scene_of(2, 1, 1, False)
    likelihood = Likelihood(imaging((45, 45)), scene, dtype=dtype, engine="kernel")
    clean = draw(scene, len(scene.names) + 1)
    vectors = clean.clone()
    for i in range(len(scene.names)):
        vectors[i, i] = float("nan") if i % 2 else float("inf")
    value, negative = likelihood.parts(vectors)
    assert (value[:-1] == IMPOSSIBLE).all()
    assert (negative[:-1] == 0).all()
    assert value[-1] == likelihood.parts(clean)[0][-1]
    residuals = likelihood.residuals(vectors)
    assert torch.isfinite(residuals).all()
    assert torch.equal(residuals[-1], likelihood.residuals(clean)[-1])


def test_batches_do_not_matter(instructions):
    scene = scene_of(2, 1, 1, True)
    likelihood = Likelihood(imaging((45, 45)), scene, engine="kernel")
    vectors = draw(scene, 5)
    assert torch.equal(torch.cat([likelihood(v[None]) for v in vectors]), likelihood(vectors))


@needs_kernel
def test_gradients_go_through_torch():
    scene = scene_of(2, 1, 1, False)
    likelihood = Likelihood(imaging((20, 20)), scene, engine="kernel")
    vectors = draw(scene, 2, spread=0.1).requires_grad_()
    likelihood.parts(vectors)[0].sum().backward()
    assert torch.isfinite(vectors.grad).all()
    assert vectors.grad.abs().max() > 0


@needs_kernel
def test_what_it_does_not_cover_runs_on_torch():
    scene = scene_of(2, 1, 1, False)
    data = imaging((45, 45), psf="pixel")
    wide = replace(data, psf=np.ones((2, 33, 33)))
    assert Likelihood(wide, scene).engine == "torch"
    assert Likelihood(data, scene_of(2, 5, 4, False)).engine == "torch"
    assert Likelihood(data, scene).engine == "kernel"
    with pytest.raises(LenspipeError, match="kernel"):
        Likelihood(wide, scene, engine="kernel")


def test_off_and_unknown_by_environment(monkeypatch):
    scene, data = scene_of(2, 1, 1, False), imaging((20, 20))
    monkeypatch.setenv("LENSPIPE_KERNEL", "off")
    assert Likelihood(data, scene).engine == "torch"
    monkeypatch.setenv("LENSPIPE_KERNEL", "sse9")
    with pytest.raises(ValueError, match="sse9"):
        Likelihood(data, scene)


def test_without_the_library_torch_runs_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(kernel, "EXTENSION_SUFFIXES", [".nowhere"])
    kernel._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            scene, data = scene_of(2, 1, 1, False), imaging((20, 20))
            assert [Likelihood(data, scene).engine for _ in range(3)] == ["torch"] * 3
        assert len(caplog.records) == 1
    finally:
        kernel._library.cache_clear()


@needs_kernel
def test_a_library_of_other_sources_is_not_called_and_that_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(kernel, "_ABI", -1)
    kernel._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            scene, data = scene_of(2, 1, 1, False), imaging((20, 20))
            assert [Likelihood(data, scene).engine for _ in range(3)] == ["torch"] * 3
        assert sum("built from other sources" in record.getMessage() for record in caplog.records) == 1
    finally:
        kernel._library.cache_clear()


@needs_kernel
def test_floating_point_mode_of_the_process_is_untouched():
    """Loading a library linked with -ffast-math flushes every later denormal to zero."""
    assert np.float64(2.2250738585072014e-308) / 4 > 0
