"""Has the sampler converged? Autocorrelation time, effective sample size, R-hat.

Legend: C ensembles (chains), T steps, K walkers, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Diagnostics:
    """Of each of P parameters: split R-hat over the ensembles, autocorrelation time in steps, effective sample size."""

    rhat: Floats
    tau: Floats
    ess: Floats


def diagnose(chains: Floats) -> Diagnostics:
    """`Diagnostics` of (C, T, K, P) chains."""
    C, T, K, _ = chains.shape
    tau = integrated_time(chains)
    # Steps that are nearly copies of each other add to the cost of R-hat and nothing to its meaning.
    stride = max(1, int(tau.min() / 4))
    return Diagnostics(split_rhat(chains[:, ::stride]), tau, C * T * K / tau)


def split_rhat(chains: Floats) -> Floats:
    """(P,) R-hat of (C, T, K, P): each ensemble's two halves count as chains, its walkers as draws.

    Gelman et al. 2013, Bayesian Data Analysis, eq. 11.4. Walkers of one ensemble are not independent, ensembles are:
    that is why the ensembles, and not the walkers, are the chains (rank-normalised: Vehtari et al. 2021).
    """
    from arviz_stats.base import array_stats

    C, T, K, P = chains.shape
    half = T // 2
    draws = chains[:, : 2 * half].reshape(C * 2, half * K, P)
    return np.array([float(array_stats.rhat(draws[..., p], chain_axis=0, draw_axis=1)) for p in range(P)])


def integrated_time(chains: Floats, window: float = 5.0) -> Floats:
    """(P,) integrated autocorrelation time in steps (Sokal 1997), averaged over walkers and ensembles.

    The mean subtracted is that of all ensembles together, so that walkers that have not yet left their own corner
    count as correlation: with each walker's own mean, short chains look many times better than they are.
    """
    C, T, K, P = chains.shape
    series = chains.transpose(1, 0, 2, 3).reshape(T, C * K, P)
    series = series - series.mean((0, 1))
    size = 1 << (2 * T - 1).bit_length()
    correlation = np.empty((T, P))
    for p in range(P):
        power = np.abs(np.fft.rfft(series[..., p], size, axis=0)) ** 2
        covariance = np.fft.irfft(power.mean(1), size)[:T] / np.arange(T, 0, -1)
        correlation[:, p] = covariance / covariance[0] if covariance[0] > 0 else np.eye(T)[0]
    times = 2 * np.cumsum(correlation, axis=0) - 1
    inside = np.arange(T)[:, None] < window * times
    last = np.where(inside.all(0), T - 1, np.argmin(inside, axis=0))
    return np.maximum(times[last, np.arange(P)], 1.0)
