import numpy as np

from lenspipe.label.masks import label
from lenspipe.types import CLASSES


def layers(*values):
    """Two bands of one image of a single row, each layer's flux per pixel the same in both bands."""
    return [np.tile(np.array(v, np.float32), (1, 2, 1, 1)) for v in values]


def test_brightest_layer_wins_and_the_unseen_is_background():
    source, lens, others = layers([[5, 2, 0, 1, 0]], [[1, 9, 0, 1, 0]], [[0, 3, 8, 1, 0]])
    classes = label(source, lens, others, np.array([[1.0, 1.0]]), 2.0)
    # Two bands of S/N 1 add up to 1.4, below the threshold.
    assert [CLASSES[c] for c in classes[0, 0]] == ["source", "lens", "noise", "background", "background"]


def test_bands_count_by_their_inverse_variance():
    flux = np.zeros((1, 2, 1, 1), np.float32)
    flux[0, 1] = 10.0
    nothing = np.zeros_like(flux)
    seen = label(flux, nothing, nothing, np.array([[1000.0, 4.0]]), 2.0)
    unseen = label(flux, nothing, nothing, np.array([[4.0, 1000.0]]), 2.0)
    assert CLASSES[seen[0, 0, 0]] == "source"
    assert CLASSES[unseen[0, 0, 0]] == "background"


def test_flux_unit_does_not_matter():
    rng = np.random.default_rng(1)
    parts = [rng.exponential(2, (3, 2, 9, 9)).astype(np.float32) for _ in range(3)]
    rms = np.full((3, 2), 1.5)
    expected = label(*parts, rms, 2.0)
    assert len(np.unique(expected)) == 4
    scaled = [p.astype(np.float64) * 1e-12 for p in parts]
    assert np.array_equal(label(*scaled, rms * 1e-12, 2.0), expected)


def test_equals_the_largest_of_the_layers():
    rng = np.random.default_rng(2)
    parts = [rng.exponential(1, (4, 3, 8, 8)).astype(np.float32) for _ in range(3)]
    rms = rng.uniform(0.5, 2, (4, 3))
    weight = 1 / rms**2
    snr = np.stack([np.einsum("nbhw,nb->nhw", p, weight) for p in parts]) / np.sqrt(weight.sum(1))[:, None, None]
    expected = np.where(snr.max(0) > 1.5, snr.argmax(0), 3)
    assert np.array_equal(label(*parts, rms, 1.5), expected)
