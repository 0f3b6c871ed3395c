"""What the simulations for learners share: which object is of which class, noise, columns of truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Row = dict[str, float]
"""Truth of one object: name -> value."""
Range = tuple[float, float]
"""Uniform between two ends; `log_uniform` where an option says so."""


def class_of(number: int, classes: Sequence[str]) -> int:
    """Classes take turns, so that they are balanced, and no object depends on how many there are."""
    return number % len(classes)


def log_uniform(rng: Generator, ends: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(ends))))


def add_noise(
    rng: Generator, model: NDArray[np.floating], sky_rms: NDArray[np.float64], gain: NDArray[np.float64]
) -> NDArray[np.float32]:
    """`model` with the noise of sky, read-out and its own photons, each once: variance = sky_rms^2 + model / gain.

    All Gaussian: behind `sky_rms` there are always enough electrons in a pixel for that.

    Parameters
    ----------
    model : (..., H, W) flux per pixel.
    sky_rms, gain : (...) flux units; electrons behind one flux unit.
    """
    sigma = np.sqrt(sky_rms[..., None, None] ** 2 + np.maximum(model, 0) / gain[..., None, None])
    return np.asarray(model + sigma * rng.standard_normal(model.shape), dtype=np.float32)


def columns(rows: Sequence[Row], names: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
    """`rows` as columns of the `names` (name -> unit), NaN where a row has none."""
    strange = {name for row in rows for name in row} - set(names)
    if strange:
        raise ValueError(f"no unit is stated for {sorted(strange)}")
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
