"""What is on one cutout: lights and deflectors, in arcsec from its centre."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

LAYERS = ("source", "lens", "others")
"""``lens`` is the galaxy at the centre, also where it lenses nothing; ``others`` is everything unrelated."""
Range = tuple[float, float]
"""Uniform between two ends."""
FACTS = {
    "z_lens": "",
    "z_source": "",
    "sigma_v": "km / s",
    "lens_M_r": "mag",
    "lens_radius": "kpc",
    "source_M_uv": "mag",
    "source_radius": "kpc",
    "n_sources": "",
    "z_source2": "",
    "source2_center_x": "arcsec",
    "source2_center_y": "arcsec",
    "source2_scale": "",
    "source_theta_E": "arcsec",
}
"""Name -> unit of what a population of galaxies knows beyond the model's parameters; see `Scene.facts`."""


@dataclass(frozen=True)
class Light:
    """One Sersic profile; a point where `radius` is 0. Arcsec; `magnitude` (B,) AB.

    `plane`: 0 not lensed, 1 behind the lens, 2 behind the first source too.
    """

    layer: str
    magnitude: NDArray[np.float64]
    x: float
    y: float
    radius: float = 0.0
    n_sersic: float = 1.0
    e1: float = 0.0
    e2: float = 0.0
    arms: float = 0.0
    pitch: float = 0.4
    phase: float = 0.0
    plane: int = 0


@dataclass(frozen=True)
class Streak:
    """A trail that no telescope saw: not blurred. Arcsec; `angle` in radians.

    Attributes
    ----------
    x, y, angle, length, width : of the middle, the direction, the whole length, the sigma across.
    peak : in units of the sky's noise.
    band : number of the band that has it; None: all.
    """

    x: float
    y: float
    angle: float
    length: float
    width: float
    peak: float
    band: int | None = None


@dataclass(frozen=True)
class Scene:
    """All light of a cutout, and the deflectors' parameters.

    Attributes
    ----------
    mass : of the lens; empty where nothing lenses. theta_E is that of the first source.
    behind : of the first source as a lens, seen from the second: theta_E, e1, e2, center_x, center_y; and ``scale``,
        how much more the lens bends the light of the second. Empty without a second source plane.
    facts : of `FACTS`, those that are known.
    """

    kind: str
    lights: tuple[Light, ...]
    mass: dict[str, float] = field(default_factory=dict)
    behind: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    streaks: tuple[Streak, ...] = ()

    @property
    def is_lens(self) -> bool:
        return self.kind == "lens"

    def truth(self) -> dict[str, float]:
        """Model parameters by lenspipe's names; empty for a non-lens."""
        if not self.is_lens:
            return {}
        lens, source = self.lights[0], self.lights[1]
        centre = {"source_center_x": source.x, "source_center_y": source.y}
        return {**self.mass, **_shape("lens_light", lens), **_shape("source", source), **centre, **self.facts}


def _shape(prefix: str, light: Light) -> dict[str, float]:
    values = {"R_sersic": light.radius, "n_sersic": light.n_sersic, "e1": light.e1, "e2": light.e2}
    return {f"{prefix}_{name}": value for name, value in values.items()}


def ellipticity(rng: Generator, ratio: Range) -> tuple[float, float]:
    """(e1, e2) of a uniform axis ratio and a uniform angle: |e| = (1 - q) / (1 + q)."""
    q, angle = rng.uniform(*ratio), rng.uniform(0, 2 * np.pi)
    modulus = (1 - q) / (1 + q)
    return float(modulus * np.cos(angle)), float(modulus * np.sin(angle))
