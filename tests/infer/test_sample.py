"""The sampler is judged by its distribution, the diagnostics by chains whose worth is known."""

import numpy as np
import pytest
from scipy import stats

from lenspipe.infer.checkpoint import NOWHERE
from lenspipe.infer.config import SamplerConfig
from lenspipe.infer.diagnostics import integrated_time, split_rhat
from lenspipe.infer.sample import sample

FAR = (np.full(6, -1e3), np.full(6, 1e3))


@pytest.fixture(scope="module")
def gaussian():
    """Six correlated dimensions, one of them cut by a bound."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    covariance = root @ root.T + np.eye(6)
    precision = np.linalg.inv(covariance)

    def log_prob(u):
        value = -0.5 * np.einsum("ki,ij,kj->k", u, precision, u)
        return np.where(u[:, 0] < 20 * np.sqrt(covariance[0, 0]), value, -np.inf)

    config = SamplerConfig(min_steps=1500, max_steps=4000, walkers=20)
    return covariance, log_prob, sample(log_prob, np.zeros(6), covariance, FAR, config, seed=3)


def test_draws_are_distributed_as_the_target(gaussian):
    covariance, _, chains = gaussian
    assert chains.converged
    tau = int(np.ceil(chains.diagnostics.tau.max()))
    for p in range(6):
        thinned = chains.u[:, ::tau, :, p].ravel()
        assert stats.kstest(thinned / np.sqrt(covariance[p, p]), "norm").pvalue > 1e-3
    flat = chains.u.reshape(-1, 6)
    np.testing.assert_allclose(flat.std(0), np.sqrt(np.diag(covariance)), rtol=0.06)


def test_a_nearly_gaussian_posterior_is_crossed_in_a_few_steps(gaussian):
    _, _, chains = gaussian
    assert chains.diagnostics.tau.max() < 12


def test_a_posterior_unlike_a_gaussian_is_not_taken_for_one():
    def log_prob(u):
        # A ring of radius 3 in two dimensions, an exponential tail in the third.
        ring = -0.5 * ((np.hypot(u[:, 0], u[:, 1]) - 3) / 0.5) ** 2
        return np.where(u[:, 2] > 0, ring - u[:, 2], -np.inf)

    config = SamplerConfig(min_steps=3000, max_steps=6000, walkers=20)
    start = np.array([3.0, 0.0, 0.5])
    chains = sample(log_prob, start, 0.1 * np.eye(3), (np.full(3, -9.0), np.full(3, 20.0)), config, seed=2)
    x, y, z = chains.u.reshape(-1, 3).T
    radius = np.linspace(0, 8, 4001)
    density = radius * np.exp(-0.5 * ((radius - 3) / 0.5) ** 2)
    assert np.hypot(x, y).mean() == pytest.approx((radius * density).sum() / density.sum(), abs=0.03)
    assert abs(x.mean()) < 0.15
    assert x.std() == pytest.approx(y.std(), rel=0.05)
    assert (z.mean(), z.std()) == (pytest.approx(1, abs=0.05), pytest.approx(1, abs=0.08))


def test_a_seed_repeats_the_chain(gaussian):
    covariance, log_prob, _ = gaussian
    short = SamplerConfig(min_steps=20, max_steps=20, burn=10, walkers=20)
    first, again = (sample(log_prob, np.zeros(6), covariance, FAR, short, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.u, again.u)
    assert not np.array_equal(first.u, sample(log_prob, np.zeros(6), covariance, FAR, short, seed=6).u)
    assert not first.converged


def test_kept_steps_are_counted_after_the_burn(gaussian):
    covariance, log_prob, _ = gaussian
    config = SamplerConfig(min_steps=30, max_steps=30, burn=50, walkers=12)
    chains = sample(log_prob, np.zeros(6), covariance, FAR, config, seed=1)
    assert chains.u.shape == (4, 30, 12, 6)
    assert chains.evaluations >= 4 * 12 * 80


NEVER = {"taus": 1e6, "burn": 40, "min_steps": 20, "check_every": 10, "walkers": 12}


class Memory:
    """A checkpoint that is always due, and fails the process at its `limit`-th save."""

    spent = 0.0

    def __init__(self, limit):
        self.limit, self.saves, self.kept = limit, 0, {}

    def load(self, part):
        return self.kept.get(part)

    def save(self, part, arrays):
        self.saves += 1
        if self.saves == self.limit:
            raise KeyboardInterrupt
        self.kept[part] = arrays

    def due(self):
        return True


def test_a_doubted_optimum_is_given_up_sooner(gaussian):
    covariance, log_prob, _ = gaussian
    config = SamplerConfig(**NEVER, max_steps=100, max_steps_suspect=40)

    def kept(doubted, checkpoint=NOWHERE, steps=config):
        chains = sample(log_prob, np.zeros(6), covariance, FAR, steps, 1, checkpoint, doubted)
        assert not chains.converged
        return chains.u

    short, long = kept(lambda: True), kept(lambda: False)
    assert (short.shape[1], long.shape[1]) == (40, 100)
    assert kept(lambda: True, steps=SamplerConfig(**NEVER | {"min_steps": 60}, max_steps_suspect=20)).shape[1] == 60
    # Killed on its way and taken up again, it comes to the same end; so does one that was killed at the very end.
    for limit in (3, 8):
        memory = Memory(limit)
        with pytest.raises(KeyboardInterrupt):
            kept(lambda: True, memory)
        np.testing.assert_array_equal(kept(lambda: True, memory), short)


def test_what_converges_in_time_is_converged_whatever_is_thought_of_its_optimum(gaussian):
    covariance, log_prob, _ = gaussian
    config = SamplerConfig(min_steps=400, check_every=50, max_steps_suspect=1000, walkers=20, rhat=1.1)

    def asked():
        raise AssertionError("asked")

    doubted, trusted = (sample(log_prob, np.zeros(6), covariance, FAR, config, 1, doubted=d) for d in (asked, bool))
    assert doubted.converged
    np.testing.assert_array_equal(doubted.u, trusted.u)


def test_autocorrelation_time_of_an_ar1_process():
    rng, memory = np.random.default_rng(0), 0.9
    x = np.zeros((2, 20000, 4, 1))
    for t in range(1, x.shape[1]):
        x[:, t] = memory * x[:, t - 1] + rng.normal(size=(2, 4, 1))
    assert integrated_time(x)[0] == pytest.approx((1 + memory) / (1 - memory), rel=0.1)


def test_rhat_sees_an_ensemble_that_sits_elsewhere():
    x = np.random.default_rng(0).normal(size=(4, 400, 10, 2))
    assert (split_rhat(x) < 1.002).all()
    x[2, :, :, 1] += 0.5
    rhat = split_rhat(x)
    assert rhat[0] < 1.002
    assert rhat[1] > 1.01


def test_sets_out_from_a_corner_of_the_prior():
    def log_prob(u):
        return np.where(((u >= 0) & (u <= 1)).all(1), -u.sum(1), -np.inf)

    config = SamplerConfig(min_steps=20, max_steps=20, burn=0, walkers=20)
    chains = sample(log_prob, np.zeros(6), 0.01 * np.eye(6), (np.zeros(6), np.ones(6)), config, seed=1)
    assert np.isfinite(chains.log_prob).all()
