"""Priors as the config declares them, and the coordinates in which optimiser and sampler move.

A parameter with a ``loguniform`` or ``lognormal`` prior moves in its logarithm, the others as they are: there every
prior is flat or Gaussian, so the same numbers serve least squares (as residuals) and the sampler (as a density).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lenspipe.config import Config, nearest
from lenspipe.errors import LenspipeError
from lenspipe.lensing.params import without_band

Floats = NDArray[np.float64]


class Prior(Config):
    """One parameter's prior between two bounds, in the parameter's unit."""

    kind: Literal["uniform", "loguniform", "normal", "lognormal"] = "uniform"
    lower: float
    upper: float
    centre: float | None = Field(default=None, description="mean of a normal, median of a lognormal")
    sigma: float | None = Field(default=None, gt=0, description="width of a normal; of ln(x) for a lognormal")

    @model_validator(mode="after")
    def _whole(self) -> Prior:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        if self.logarithmic and self.lower <= 0:
            raise ValueError(f"a {self.kind} prior needs lower > 0, got {self.lower}")
        if self.kind in ("normal", "lognormal") and (self.centre is None or self.sigma is None):
            raise ValueError(f"a {self.kind} prior needs centre and sigma")
        return self

    @property
    def logarithmic(self) -> bool:
        return self.kind.startswith("log")


def normal(centre: float, sigma: float, lower: float, upper: float) -> Prior:
    """A normal prior cut off at its bounds."""
    return Prior(kind="normal", centre=centre, sigma=sigma, lower=lower, upper=upper)


def _lognormal(centre: float, sigma: float, lower: float, upper: float) -> Prior:
    return Prior(kind="lognormal", centre=centre, sigma=sigma, lower=lower, upper=upper)


DEFAULTS: dict[str, Prior] = {
    "theta_E": Prior(kind="loguniform", lower=0.2, upper=6.0),
    "e1": normal(0, 0.2, -0.6, 0.6),
    "e2": normal(0, 0.2, -0.6, 0.6),
    "center_x": Prior(lower=-1.0, upper=1.0),
    "center_y": Prior(lower=-1.0, upper=1.0),
    "gamma": Prior(kind="normal", centre=2.0, sigma=0.2, lower=1.2, upper=2.8),
    "s_scale": Prior(kind="loguniform", lower=0.001, upper=0.5),
    "gamma1": normal(0, 0.05, -0.3, 0.3),
    "gamma2": normal(0, 0.05, -0.3, 0.3),
    "kappa": normal(0, 0.05, -0.3, 0.3),
    "source_R_sersic": _lognormal(0.3, 0.7, 0.02, 3.0),
    "source_n_sersic": _lognormal(1.2, 0.4, 0.4, 6.0),
    "source_center_x": normal(0, 0.4, -3.0, 3.0),
    "source_center_y": normal(0, 0.4, -3.0, 3.0),
    "source_sigma": _lognormal(0.25, 0.7, 0.02, 3.0),
    "lens_light_R_sersic": Prior(kind="loguniform", lower=0.05, upper=15.0),
    "lens_light_n_sersic": _lognormal(3.5, 0.5, 0.5, 9.0),
    "lens_light_sigma": Prior(kind="loguniform", lower=0.03, upper=10.0),
}
"""For parameters the config does not name, see `default`."""
SHARP: dict[str, Prior] = {
    "gamma1": normal(0, 0.03, -0.3, 0.3),
    "gamma2": normal(0, 0.03, -0.3, 0.3),
    "source_R_sersic": _lognormal(0.2, 0.35, 0.02, 2.0),
    "source_n_sersic": _lognormal(1.2, 0.25, 0.4, 6.0),
    "source_e1": normal(0, 0.15, -0.6, 0.6),
    "source_e2": normal(0, 0.15, -0.6, 0.6),
}
"""Where the image is sharp, in place of some of `DEFAULTS`: real galaxies fit no simple model to the noise there, and
a source that is free to grow mops up what the lens light leaves. Narrow priors keep it a source."""


def default(name: str, sharp: bool = False) -> Prior:
    """The default prior of `name`: ``source1_e1_g`` falls back to ``source_e1``, then to ``e1``."""
    table = DEFAULTS | SHARP if sharp else DEFAULTS
    unnumbered = re.sub(r"^(source|lens_light|lens)\d+_", r"\1_", without_band(name))
    bare = re.sub(r"^(source|lens_light|lens)_", "", unnumbered)
    for candidate in (name, unnumbered, bare):
        if candidate in table:
            return table[candidate]
    raise LenspipeError(f"model.priors: {name!r} has no default prior: declare one.")


class Priors:
    """The joint prior of a scene's P parameters.

    Parameters
    ----------
    names : P parameter names.
    declared : name -> `Prior`, over the defaults; a name that is no parameter is refused. One without a band stands for
        its copies in all bands.
    mass_follows_light : sigma of e_mass - e_light (each component), None for no such coupling.
    sharp : take the defaults for sharp images.
    light : name -> (value, sigma), one more normal factor each: the mass follows a light that is no parameter.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        declared: Mapping[str, Prior],
        mass_follows_light: float | None = None,
        sharp: bool = False,
        light: Mapping[str, tuple[float, float]] | None = None,
    ):
        shared = [without_band(name) for name in names]
        for name in declared:
            if name not in names and name not in shared:
                raise LenspipeError(f"model.priors.{name}: no such parameter{nearest(name, list(names))}")
        self.names = names
        self.priors = [declared.get(n) or declared.get(short) or default(n, sharp) for n, short in zip(names, shared)]
        self.logarithmic = np.array([p.logarithmic for p in self.priors])
        self.lower = self._inner(np.array([p.lower for p in self.priors]))
        self.upper = self._inner(np.array([p.upper for p in self.priors]))
        centres = np.array([p.lower if p.centre is None else p.centre for p in self.priors])
        self.centre = self._inner(centres)
        self.precision = np.array([0.0 if p.sigma is None else 1 / p.sigma for p in self.priors])
        pairs = [
            (names.index(e), i)
            for e in ("e1", "e2")
            for i, short in enumerate(shared)
            if mass_follows_light and e in names and short == f"lens_light_{e}"
        ]
        # The copies of several bands together weigh as much as one.
        copies = max(len(pairs) // 2, 1)
        precision = 1 / (mass_follows_light * math.sqrt(copies)) if mass_follows_light else 0.0
        # Couplings of coordinates are normal too: matrix @ u - offset.
        fixed = [(names.index(n), value, 1 / sigma) for n, (value, sigma) in (light or {}).items()]
        self.matrix, self.offset = np.zeros((len(pairs) + len(fixed), len(names))), np.zeros(len(pairs) + len(fixed))
        for row, (a, b) in zip(self.matrix, pairs):
            row[a], row[b] = precision, -precision
        for k, (i, value, weight) in enumerate(fixed, start=len(pairs)):
            self.matrix[k, i], self.offset[k] = weight, value * weight

    def physical(self, u: Floats) -> Floats:
        """(..., P) sampled coordinates -> parameters in their units."""
        return np.where(self.logarithmic, np.exp(np.where(self.logarithmic, u, 0.0)), u)

    def inner(self, physical: Floats) -> Floats:
        """(..., P) parameters -> sampled coordinates, clipped into the bounds."""
        return np.clip(self._inner(physical), self.lower, self.upper)

    def log_prior(self, u: Floats) -> Floats:
        """(K,) log density of (K, P) coordinates up to a constant, -inf outside the bounds."""
        inside = ((u >= self.lower) & (u <= self.upper)).all(-1)
        return np.where(inside, -0.5 * (self.residuals(u) ** 2).sum(-1), -np.inf)

    def residuals(self, u: Floats) -> Floats:
        """(K, P + couplings) normalised; minus half the sum of their squares is `log_prior` inside the bounds."""
        return np.concatenate([(u - self.centre) * self.precision, u @ self.matrix.T - self.offset], -1)

    def describe(self) -> dict[str, dict[str, object]]:
        """Name -> the prior as plain values, for the files."""
        return {n: p.model_dump(exclude_none=True) for n, p in zip(self.names, self.priors)}

    def _inner(self, physical: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.logarithmic, np.log(np.where(self.logarithmic, physical, 1.0)), physical)
