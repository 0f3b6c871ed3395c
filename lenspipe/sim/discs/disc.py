"""One disc: drawn, and its brightness on the sky before the beam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lenspipe.sim.discs.config import Discs
from lenspipe.sim.discs.planet import FLARING, JUPITER, Planet
from lenspipe.sim.learners import log_uniform

Floats = NDArray[np.float64]
EARTH_PER_AU2 = 5.9722e27 / 1.495978707e13**2
"""g/cm^2 of one Earth mass on a square au."""
_KEPLER = 29.784692
"""km/s, of a circular orbit at 1 au about the Sun."""
_OPACITY = 2.3
"""cm^2 per g of dust at 230 GHz (Beckwith et al. 1990, AJ 99, 924, with a gas-to-dust ratio of 100)."""
_PLANCK = 1474.4993
"""Jy/sr: 2 h nu^3 / c^2 at 1 GHz."""
_KELVIN_PER_GHZ = 0.0479924307
_DEPTH_OF_CO = 20.0
"""Optical depth of CO at the line's centre in the inner disc; beyond the gas radius it vanishes."""
_R_MIN = 1.0
"""au; the inner edge."""


@dataclass(frozen=True)
class Ring:
    """A gap in the dust: au, fraction missing, au."""

    radius: float
    depth: float
    width: float


@dataclass(frozen=True)
class Disc:
    """Everything about a disc; angles in radians unless they say otherwise. See `lenspipe.sim.discs.config.Discs`.

    Attributes
    ----------
    axis : of the major axis with the receding side, from +x towards +y.
    spin : 1 or -1: the disc turns towards growing angles on the sky, or the other way.
    """

    distance: float
    stellar_mass: float
    inclination: float
    axis: float
    spin: int
    center_x: float
    center_y: float
    radius: float
    dust_mass: float
    density_slope: float
    temperature: float
    aspect: float
    gas_radius: float
    gas_temperature: float
    gas_height: float
    line_width: float
    rings: tuple[Ring, ...]
    spiral: tuple[float, float, float]
    planet: Planet | None

    def aspect_at(self, r: float) -> float:
        return self.aspect * (r / 100) ** FLARING

    def in_plane(self, x: Floats, y: Floats, height: float) -> tuple[Floats, Floats]:
        """r in au and azimuth, growing with the rotation, of the point at x, y arcsec on the surface z = `height` r.

        Of a raised surface the near side's upper half is seen. Solved by iteration from the midplane.
        """
        dx, dy = (x - self.center_x) * self.distance, (y - self.center_y) * self.distance
        along = dx * math.cos(self.axis) + dy * math.sin(self.axis)
        across = self.spin * (dy * math.cos(self.axis) - dx * math.sin(self.axis))
        cos, sin = math.cos(self.inclination), math.sin(self.inclination)
        deep = across / cos
        for _ in range(12 if height else 0):
            deep = (across - height * np.hypot(along, deep) * sin) / cos
        return np.maximum(np.hypot(along, deep), _R_MIN), np.arctan2(deep, along)

    def on_sky(self, r: float, azimuth: float) -> tuple[float, float]:
        """x, y in arcsec of a point of the midplane."""
        along, across = r * math.cos(azimuth), self.spin * r * math.sin(azimuth) * math.cos(self.inclination)
        cos, sin = math.cos(self.axis), math.sin(self.axis)
        return (
            self.center_x + (along * cos - across * sin) / self.distance,
            self.center_y + (along * sin + across * cos) / self.distance,
        )

    def dust(self, r: Floats, azimuth: Floats) -> Floats:
        """Surface density in g/cm^2: a viscous disc (Lynden-Bell & Pringle 1974) with gaps, arms, planet."""
        g = self.density_slope
        centre = self.dust_mass * EARTH_PER_AU2 * (2 - g) / (2 * math.pi * self.radius**2)
        scaled = r / self.radius
        density = centre * scaled**-g * np.exp(-(scaled ** (2 - g)))
        for ring in self.rings:
            density = density * (1 - ring.depth * np.exp(-0.5 * ((r - ring.radius) / ring.width) ** 2))
        contrast, pitch, phase = self.spiral
        if contrast:
            # Trailing: the arm is left behind as r grows.
            density = density * (1 + contrast * np.cos(2 * (azimuth + np.log(scaled) / math.tan(pitch)) + phase))
        if self.planet is not None:
            density = density * self.planet.gap(r) * (1 + 0.7 * self.planet.wake(r, azimuth))
        return np.asarray(density)

    def continuum(self, x: Floats, y: Floats, frequency: float) -> Floats:
        """Jy/sr at `frequency` GHz: thermal emission of the dust in the midplane."""
        r, azimuth = self.in_plane(x, y, 0.0)
        depth = _OPACITY * self.dust(r, azimuth) / math.cos(self.inclination)
        return _planck(self.temperature * (r / 100) ** -0.5, frequency) * -np.expm1(-depth)

    def velocity(self, r: Floats, azimuth: Floats, height: float) -> Floats:
        """km/s along the line of sight, positive away: rotation at z = `height` r, and what the planet's wake adds."""
        kepler = _KEPLER * np.sqrt(self.stellar_mass / r) * (1 + height**2) ** -0.75
        radial = np.zeros_like(r)
        if self.planet is not None:
            # Gas is pushed outwards in the outer wake and inwards in the inner one, at about the sound speed.
            sound = self.aspect * (r / 100) ** FLARING * kepler
            radial = np.sign(r - self.planet.radius) * sound * self.planet.wake(r, azimuth)
        return np.asarray((kepler * np.cos(azimuth) + radial * np.sin(azimuth)) * math.sin(self.inclination))

    def channel(self, x: Floats, y: Floats, frequency: float, velocity: float) -> Floats:
        """Jy/sr of CO at `velocity` km/s from the star's, continuum subtracted: the upper surface alone."""
        r, azimuth = self.in_plane(x, y, self.gas_height)
        shift = (velocity - self.velocity(r, azimuth, self.gas_height)) / self.line_width
        depth = _DEPTH_OF_CO * np.exp(-((r / self.gas_radius) ** 4) - 0.5 * shift**2)
        temperature = self.gas_temperature * self.temperature * (r / 100) ** -0.5
        return _planck(temperature, frequency) * -np.expm1(-depth)


def draw_disc(rng: Generator, options: Discs, with_planet: bool) -> Disc:
    """One disc. The planet is drawn last, so that the disc around it does not depend on the class."""
    low, high = (math.cos(math.radians(end)) for end in reversed(options.inclination))
    radius = log_uniform(rng, options.radius)
    mass = log_uniform(rng, options.stellar_mass)
    aspect = rng.uniform(*options.aspect_ratio)
    rings = []
    for _ in range(rng.poisson(options.rings)):
        where = radius * rng.uniform(0.25, 1.6)
        rings.append(Ring(where, rng.uniform(*options.ring_depth), where * rng.uniform(*options.ring_width)))
    spiral = (rng.uniform(*options.spiral_contrast), math.radians(rng.uniform(*options.spiral_pitch)))
    contrast = spiral[0] if rng.uniform() < options.spirals else 0.0
    disc: dict[str, Any] = {
        "distance": rng.uniform(*options.distance),
        "stellar_mass": mass,
        "inclination": math.acos(rng.uniform(low, high)),
        "axis": rng.uniform(0, 2 * math.pi),
        "center_x": rng.normal(0, options.centre),
        "center_y": rng.normal(0, options.centre),
        "radius": radius,
        "dust_mass": log_uniform(rng, options.dust_mass),
        "density_slope": rng.uniform(*options.density_slope),
        "temperature": rng.uniform(*options.temperature),
        "aspect": aspect,
        "gas_radius": radius * rng.uniform(*options.gas_radius),
        "gas_temperature": rng.uniform(*options.gas_temperature),
        "gas_height": rng.uniform(*options.gas_height),
        "line_width": rng.uniform(*options.line_width),
    }
    spin = int(rng.choice((-1, 1)))
    orbit = radius * rng.uniform(*options.planet_radius)
    planet = Planet(
        ratio=log_uniform(rng, options.planet_mass) * JUPITER / mass,
        radius=orbit,
        azimuth=rng.uniform(-math.pi, math.pi),
        aspect=aspect * (orbit / 100) ** FLARING,
        alpha=log_uniform(rng, options.viscosity),
    )
    phase = rng.uniform(0, 2 * math.pi)
    marks = (contrast, spiral[1], phase)
    return Disc(**disc, spin=spin, rings=tuple(rings), spiral=marks, planet=planet if with_planet else None)


def _planck(temperature: Floats, frequency: float) -> Floats:
    """B_nu in Jy/sr."""
    return np.asarray(_PLANCK * frequency**3 / np.expm1(_KELVIN_PER_GHZ * frequency / temperature))
