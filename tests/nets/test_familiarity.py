import pytest
import torch

from lenspipe.nets.familiarity import Familiarity, split


@pytest.fixture(scope="module")
def population():
    torch.manual_seed(0)
    mix = torch.randn(12, 12)
    return lambda n: torch.randn(n, 12) @ mix + 5


@pytest.fixture(scope="module")
def found(population):
    return Familiarity.fit(population(600), population(400))


def test_of_the_same_population_a_part_p_scores_p_or_less(found, population):
    p = found.p_value(population(4000))
    for level in (0.02, 0.1, 0.5):
        assert float((p <= level).float().mean()) == pytest.approx(level, abs=0.03 if level < 0.4 else 0.06)


def test_what_breaks_the_correlations_is_far_though_each_feature_is_usual(found, population):
    shuffled = torch.stack([column[torch.randperm(len(column))] for column in population(300).T], 1)
    assert float(found.p_value(shuffled).median()) < 0.02
    assert float(found.p_value(100 * population(5)).max()) == pytest.approx(1 / 401)


def test_fewer_objects_than_features_and_dead_features_do_no_harm(population):
    dead = [torch.cat([population(n), torch.zeros(n, 3)], 1) for n in (8, 5, 50)]
    p = Familiarity.fit(dead[0], dead[1]).p_value(dead[2])
    assert p.isfinite().all() and (p > 0).all() and (p <= 1).all()


def test_travels_beside_the_weights(found, population):
    own, again = split({"layer.weight": torch.ones(1), **found.tensors()})
    assert list(own) == ["layer.weight"]
    features = population(7)
    assert torch.equal(again.p_value(features), found.p_value(features))
    assert split(own) == (own, None)
