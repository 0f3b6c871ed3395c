"""Levenberg-Marquardt on problems with known answers."""

import numpy as np

from lenspipe.infer.optimise import levenberg_marquardt, normal_equations


def rosenbrock(u):
    return np.stack([10 * (u[:, 1] - u[:, 0] ** 2), 1 - u[:, 0]], axis=1)


def test_climbs_rosenbrocks_valley_from_everywhere():
    start = np.random.default_rng(0).uniform(-2, 2, size=(8, 2))
    found = levenberg_marquardt(rosenbrock, start, np.full(2, -3.0), np.full(2, 3.0), iterations=200, tolerance=1e-12)
    np.testing.assert_allclose(found.u, 1, atol=1e-4)
    assert found.cost.max() < 1e-8


def test_stops_at_the_bound_where_the_optimum_is_outside():
    found = levenberg_marquardt(rosenbrock, np.zeros((1, 2)), np.full(2, -3.0), np.array([0.5, 3.0]), tolerance=1e-12)
    np.testing.assert_allclose(found.u, [[0.5, 0.25]], atol=1e-3)


def test_normal_equations_of_a_line():
    matrix = np.random.default_rng(1).normal(size=(30, 4))
    u = np.random.default_rng(2).normal(size=(3, 4))

    def residuals(v):
        return v @ matrix.T

    curvature, gradient = normal_equations(residuals, u, residuals(u), np.full(4, -9.0), np.full(4, 9.0))
    np.testing.assert_allclose(curvature, np.broadcast_to(matrix.T @ matrix, (3, 4, 4)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, residuals(u) @ matrix, rtol=1e-6, atol=1e-6)
