import numpy as np
import pytest

from lenspipe.label.reference import Thresholds, label
from lenspipe.types import CLASSES

y, x = np.indices((45, 45)) - 22.0
SOURCE, LENS, NOISE, BACKGROUND = range(4)


def blob(cx, cy, sigma, flux):
    image = flux * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return np.tile(image.astype(np.float32), (1, 3, 1, 1))


def test_four_classes_where_they_belong():
    ring = np.tile(np.exp(-((np.hypot(x, y) - 7) ** 2) / 2).astype(np.float32), (1, 3, 1, 1))
    classes = label(ring, blob(0, 0, 2.0, 3.0), blob(15, 12, 1.5, 3.0), Thresholds())[0]
    assert [CLASSES[classes[22 + j, 22 + i]] for i, j in ((7, 0), (0, 0), (15, 12), (-18, 18))] == list(CLASSES)


def test_an_empty_layer_has_no_pixels():
    nothing = np.zeros((1, 3, 45, 45), np.float32)
    classes = label(nothing, blob(0, 0, 2.0, 3.0), nothing, Thresholds())
    assert not (classes == SOURCE).any() and (classes == LENS).any()
    assert (label(nothing, nothing, nothing, Thresholds()) == BACKGROUND).all()


@pytest.mark.parametrize("factor", [1e-12, 1e6])
def test_flux_unit_does_not_matter(factor):
    parts = [blob(6, 0, 1.5, 1.0), blob(0, 0, 2.0, 3.0), blob(15, 12, 1.5, 3.0)]
    scaled = [p * np.float32(factor) for p in parts]
    assert np.array_equal(label(*parts, Thresholds()), label(*scaled, Thresholds()))


def test_a_faint_lens_gets_its_pixels_by_lowering_the_threshold():
    tiny = blob(0, 0, 0.8, 1.0)
    bright = blob(15, 12, 3.0, 5.0)
    source = blob(6, 0, 1.5, 1.0)
    assert (label(source, tiny, bright, Thresholds()) == LENS).sum() > (
        label(source, tiny, bright, Thresholds(lens_pixels=0)) == LENS
    ).sum()
