import numpy as np

from lenspipe.label.quantile import label
from lenspipe.types import CLASSES

SOURCE, LENS, BACKGROUND = (CLASSES.index(name) for name in ("source", "lens", "background"))


def layers(seed=0, n=2):
    rng = np.random.default_rng(seed)
    return [rng.exponential(1, (n, 2, 40, 40)).astype(np.float32) for _ in range(3)]


def test_areas_are_those_of_the_quantiles_and_the_brighter_wins():
    source, lens, others = layers()
    lens[:, :, :20] *= 100  # all of its brightest pixels are here, and brighter than the source
    classes = label(source, lens, others, np.ones((2, 2)), 0.99, 0.95, 0.0)
    assert ((classes == LENS).sum((1, 2)) == 16).all()
    assert ((classes == SOURCE).sum((1, 2)) >= 80 - 16).all()
    assert set(np.unique(classes)) == {SOURCE, LENS, BACKGROUND}


def test_an_image_without_an_arc_has_no_arc():
    source, lens, others = layers()
    classes = label(np.zeros_like(source), lens, others, np.ones((2, 2)), 0.99, 0.95, 0.0)
    assert not (classes == SOURCE).any()


def test_the_floor_asks_for_signal():
    source, lens, others = layers()
    classes = label(source, lens, others, np.full((2, 2), 1e6), 0.99, 0.95, 1.0)
    assert (classes == BACKGROUND).all()
