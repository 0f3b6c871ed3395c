"""The reference recipe: its swarm climbs as lenstronomy's does, and the fit it makes is the same lens."""

import numpy as np
import pytest

from lenspipe.infer.config import FitConfig
from lenspipe.infer.fit import fit
from lenspipe.infer.recipe import swarm
from tests.infer.mock import SCENE, TRUTH, lens

CENTRE = np.linspace(-0.5, 0.5, 6)


def bowl(u):
    return -0.5 * (((u - CENTRE) / np.geomspace(0.01, 1, 6)) ** 2).sum(-1)


def test_the_swarm_finds_the_top():
    box = -np.ones(6), np.ones(6)
    best, value, evaluations = swarm(bowl, *box, 200, 300, np.random.default_rng(1))
    np.testing.assert_allclose(best, CENTRE, atol=0.02)
    assert value == bowl(best) and evaluations <= 1 + 200 * 301
    short = swarm(bowl, *box, 20, 3, np.random.default_rng(1))
    assert short[2] == 1 + 20 * 4 and short[1] < value


def test_the_swarm_climbs_as_lenstronomys():
    """Medians of how far it has come, over seeds: the same law, other random numbers."""
    from lenstronomy.Sampling.Samplers.pso import ParticleSwarmOptimizer

    low, high = -np.ones(6), np.ones(6)
    ours, theirs = [], []
    for seed in range(25):
        ours.append(np.log(-swarm(bowl, low, high, 30, 25, np.random.default_rng(seed))[1]))
        np.random.seed(seed)
        other = ParticleSwarmOptimizer(bowl, low, high, 30)
        middle = (low + high) / 2
        other.set_global_best(middle, np.zeros(6), bowl(middle))
        theirs.append(np.log(-bowl(np.array(other.optimize(25, verbose=False)[0]))))
    spread = np.std(ours) / np.sqrt(len(ours)) * np.sqrt(2)
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * spread


@pytest.fixture(scope="module")
def fitted():
    cutout, masks = lens(size=31)
    recipe = {"particles": 150, "iterations": 250, "walkers": 40, "burn": 150, "steps": 150}
    return fit(cutout, masks, FitConfig.model_validate({"preset": "reference", "recipe": recipe}), seed=1)


def test_the_recipe_finds_the_lens(fitted):
    samples = fitted.posterior.samples.reshape(-1, len(SCENE.names))
    assert fitted.posterior.samples.shape == (1, 150 * 40, 17)
    for name in ("theta_E", "gamma1", "source_center_x"):
        draws = samples[:, SCENE.index(name)]
        assert abs(np.median(draws) - TRUTH[name]) < 5 * draws.std(), name
    assert fitted.lenstronomy_difference < 1e-9


def test_it_does_not_claim_to_have_converged(fitted):
    assert not fitted.chains.converged
    assert "not_converged" in {str(reason) for reason, _ in fitted.verdict.reasons}


def test_amplitudes_are_maximised_as_in_lenstronomy(fitted):
    assert fitted.config.data.marginalise is False and fitted.config.preset == "reference"
