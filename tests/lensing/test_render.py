"""The compiled renderer against torch, profile by profile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lenspipe.lensing import grid, mass
from lenspipe.lensing.kernel import render as kernel
from lenspipe.lensing.light import sersic_ellipse
from lenspipe.lensing.psf import gaussian_operators

pytestmark = pytest.mark.skipif(not kernel.available(), reason="the compiled kernel was not built here")
N, SCALE = 37, 0.2
LENS = [1.4, 0.12, -0.07, 0.04, -0.03, 0.03, -0.02]
BEHIND = [1.3, 0.3, 0.05, 0.02, 0.1, -0.05]


def rendered(profiles, plane, sigma, s=2, dtype=np.float64, objects=1):
    x, y = (a.numpy().ravel() for a in grid.axes(N, N, SCALE, s))
    k = len(profiles)
    return kernel.render(
        x,
        y,
        s,
        np.arange(objects + 1) * (k // objects),
        np.array(profiles, float),
        np.zeros(k, np.intc),
        np.array(plane, np.intc),
        np.ones((k, 1)),
        np.array([[*LENS, *BEHIND]] * objects),
        None if sigma is None else np.full((objects, 1), sigma),
        1,
        dtype,
    )[:, 0, 0]


def by_torch(profile, plane, s=2):
    x, y = grid.axes(N, N, SCALE, s)
    p = torch.tensor([*LENS, *BEHIND], dtype=torch.float64)
    bx, by = x, y
    if plane:
        ax, ay = mass.sie(x, y, *p[:5])
        sx, sy = mass.shear(x, y, p[5], p[6])
        bx, by = x - ax - sx, y - ay - sy
    if plane == 2:
        cx, cy = mass.sie(bx, by, *p[8:])
        bx, by = x - p[7] * (x - bx) - cx, y - p[7] * (y - by) - cy
    image = sersic_ellipse(bx, by, *(torch.tensor(v, dtype=torch.float64) for v in profile[:6]))
    return grid.bin_mean(image, s).numpy()


@pytest.mark.parametrize("plane", [0, 1, 2])
@pytest.mark.parametrize("profile", [(0.4, 1.0, 0.1, 0.2, 0.3, -0.2), (1.1, 4.5, -0.3, 0.1, -1.7, 2.2)])
def test_profiles_and_planes(profile, plane):
    expected = by_torch(profile, plane)
    wide = rendered([[*profile, 0, 0.3, 0]], [plane], None)[0]
    assert wide == pytest.approx(expected, rel=1e-9, abs=1e-11 * expected.max())
    narrow = rendered([[*profile, 0, 0.3, 0]], [plane], None, dtype=np.float32)[0]
    assert narrow == pytest.approx(expected, abs=1e-6 * expected.max())


@pytest.mark.parametrize("sigma", [0.6, 2.3, 14.0])
def test_the_gaussian_is_that_of_the_operators(sigma):
    profile = (0.4, 1.0, 0.1, 0.2, 0.3, -0.2)
    rows, cols = gaussian_operators(N, N, sigma * 2.3548200450309493 * SCALE, SCALE)
    expected = rows @ by_torch(profile, 0) @ cols.T
    made = rendered([[*profile, 0, 0.3, 0]], [0], sigma)[0]
    assert made == pytest.approx(expected, rel=1e-9, abs=1e-12 * expected.max())


def test_objects_do_not_touch_each_other():
    profiles = [[0.3, 1, 0, 0, 0.1 * i, 0, 0, 0.3, 0] for i in range(4)]
    together = rendered(profiles, [0, 1, 2, 1], 1.0, objects=4, dtype=np.float32)
    for i in range(4):
        alone = rendered(profiles[i : i + 1], [[0, 1, 2, 1][i]], 1.0, dtype=np.float32)[0]
        assert np.array_equal(alone, together[i])


def test_a_psf_beyond_all_bounds_is_refused():
    with pytest.raises(ValueError, match="too wide"):
        rendered([[0.3, 1, 0, 0, 0, 0, 0, 0.3, 0]], [0], 100.0)
