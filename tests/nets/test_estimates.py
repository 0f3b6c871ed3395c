import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from lenspipe.nets.estimates import (
    GROUPS,
    Coverage,
    calibrated,
    covariance_of,
    factor_of,
    fit_scales,
    in_arcsec,
    in_pixels,
    log_density,
)

WIDTHS = np.array([0.3, 0.3, 0.05, 0.1, 0.1, 0.04, 0.04])


def gaussians(n, seed=0):
    """Means, lower triangular factors and covariances of n correlated Gaussians."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(n, 7))
    factor = np.tril(rng.normal(0, 0.5, (n, 7, 7)), -1) + np.eye(7) * rng.uniform(0.5, 2, (n, 7))[:, None]
    factor = factor / WIDTHS
    return mean, factor, np.linalg.inv(factor.swapaxes(1, 2) @ factor)


def drawn(n, seed=0):
    mean, _, covariance = gaussians(n, seed)
    rng = np.random.default_rng(seed + 1)
    truth = mean + np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), rng.normal(size=(n, 7)))
    return mean, covariance, truth


def factors(covariance):
    return factor_of(torch.as_tensor(covariance))


def test_density_and_covariance_are_scipys():
    mean, factor, covariance = gaussians(20)
    truth = mean + 0.1
    found = log_density(*(torch.as_tensor(x) for x in (truth, mean, factor)))
    expected = [multivariate_normal(m, c).logpdf(t) for m, c, t in zip(mean, covariance, truth)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(covariance_of(torch.as_tensor(factor)), covariance, rtol=1e-8)
    np.testing.assert_allclose(covariance_of(factors(covariance)), covariance, rtol=1e-8)
    single = log_density(*(torch.as_tensor(x, dtype=torch.float32) for x in (truth, mean, factor)))
    np.testing.assert_allclose(single, expected, rtol=1e-3, atol=1e-2)


def test_gaussians_that_are_right_cover_what_they_say():
    mean, covariance, truth = drawn(4000)
    score = Coverage()
    for rows in (slice(0, 1000), slice(1000, None)):
        score.update(*(torch.as_tensor(x[rows]) for x in (mean, factors(covariance), truth)))
    found = {name: float(value) for name, value in score.compute().items()}
    for name in GROUPS:
        assert found[f"coverage68_{name}"] == pytest.approx(0.68, abs=0.02)
        assert found[f"coverage95_{name}"] == pytest.approx(0.95, abs=0.01)
    expected = np.mean([multivariate_normal(m, c).logpdf(t) for m, c, t in zip(mean, covariance, truth)])
    assert found["log_density"] == pytest.approx(expected, rel=1e-6)
    assert found["rms_theta_E"] == pytest.approx(np.sqrt(np.mean((truth - mean)[:, 2] ** 2)))


def test_overconfident_ones_do_after_calibration_on_others():
    wrong = dict(zip(GROUPS, (1.5, 0.6, 1.0, 2.0)))
    mean, covariance, truth = drawn(3000, seed=5)
    scales = fit_scales(mean, calibrated(covariance, {k: 1 / v for k, v in wrong.items()}), truth)
    assert scales == pytest.approx(wrong, rel=0.05)
    mean, covariance, truth = drawn(3000, seed=9)
    mended = calibrated(calibrated(covariance, {k: 1 / v for k, v in wrong.items()}), scales)
    score = Coverage()
    score.update(*(torch.as_tensor(x) for x in (mean, factors(mended), truth)))
    for name, value in score.compute().items():
        if name.startswith("coverage"):
            assert float(value) == pytest.approx(int(name[8:10]) / 100, abs=0.025), name
    # Correlations are left alone.
    sigma = np.sqrt(np.diagonal(mended, axis1=1, axis2=2))
    before = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(
        mended / sigma[:, :, None] / sigma[:, None], covariance / before[:, :, None] / before[:, None], rtol=1e-9
    )


def test_lengths_are_pixels_within_and_arcsec_without():
    truth = np.array([[0.2, -0.1, 1.5, 0.1, 0.2, 0.03, -0.04]])
    learnt = in_pixels(truth, 0.25)
    assert learnt[0, :3] == pytest.approx([0.8, -0.4, np.log(6.0)]) and (learnt[0, 3:] == truth[0, 3:]).all()
    mean, covariance = in_arcsec(learnt, np.eye(7)[None], 0.25)
    assert np.exp(mean[0, 2]) == pytest.approx(1.5) and mean[0, :2] == pytest.approx(truth[0, :2])
    assert np.diag(covariance[0]) == pytest.approx([0.0625, 0.0625, 1, 1, 1, 1, 1])
