"""What a planet does to its disc: a gap, two spiral wakes, and the velocities along them that make kinks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
JUPITER = 9.5458e-4
"""solar masses"""
FLARING = 0.25
"""H/r grows with this power of r; the sound speed falls with it."""


@dataclass(frozen=True)
class Planet:
    """A planet on a circular orbit.

    Attributes
    ----------
    ratio : of its mass to the star's.
    radius : au; `azimuth` radians in the disc's plane, growing with the rotation.
    aspect : H/r there.
    alpha : the disc's viscosity.
    """

    ratio: float
    radius: float
    azimuth: float
    aspect: float
    alpha: float

    @property
    def thermal_ratio(self) -> float:
        """Mass in thermal masses, (2/3) h^3 of the star's (Goodman & Rafikov 2001, ApJ 552, 793)."""
        return 1.5 * self.ratio / self.aspect**3

    @property
    def gap_depth(self) -> float:
        """Sigma_0 / Sigma_gap - 1 = 0.04 K, K = q^2 h^-5 / alpha (Kanagawa et al. 2015, ApJ 806, L15)."""
        return 0.04 * self.ratio**2 / (self.aspect**5 * self.alpha)

    @property
    def gap_width(self) -> float:
        """au, where half the gas is missing: 0.41 r q^0.5 h^-0.75 alpha^-0.25 (Kanagawa et al. 2016, PASJ 68, 43)."""
        return 0.41 * self.radius * math.sqrt(self.ratio) * self.aspect**-0.75 * self.alpha**-0.25

    def gap(self, r: Floats) -> Floats:
        """Factor on the surface density of the dust: the gas's gap, and a ring in the pressure maximum beyond it."""
        depth, width = self.gap_depth, self.gap_width
        sigma = width / 2 / math.sqrt(2 * math.log(depth)) if depth > math.sqrt(math.e) else width / 2
        hole = 1 / (1 + depth * np.exp(-0.5 * ((r - self.radius) / sigma) ** 2))
        trapped = min(depth, 1.0) * np.exp(-0.5 * ((r - self.radius - 0.9 * width) / (0.25 * width)) ** 2)
        return np.asarray(hole * (1 + trapped))

    def wake_azimuth(self, r: Floats) -> Floats:
        """Where the wake is, radians (Rafikov 2002, ApJ 569, 997, eq. 44): it trails outside, leads inside.

        The integral of (Omega - Omega_p) / c_s in a Keplerian disc with c_s ~ r^-q.
        """
        x, q = r / self.radius, FLARING
        path = x ** (q - 0.5) / (q - 0.5) - x ** (q + 1) / (q + 1) - 3 / ((2 * q - 1) * (q + 1))
        return np.asarray(self.azimuth + np.sign(x - 1) * path / self.aspect)

    def wake(self, r: Floats, azimuth: Floats) -> Floats:
        """Strength of the wake, between 0 and its amplitude: of order the planet's thermal mass, falling with distance.

        A Gaussian across, half a scale height wide; phenomenological in amplitude and width.
        """
        height = self.aspect * self.radius
        away = np.abs(r - self.radius) / height
        turn = np.angle(np.exp(1j * (azimuth - self.wake_azimuth(r))))
        # Across the wake, not along the circle: it is wound up tightly.
        x = r / self.radius
        slope = x * np.abs(x ** (FLARING - 1.5) - x**FLARING) / self.aspect
        across = r * np.abs(turn) / np.sqrt(1 + slope**2)
        amplitude = min(self.thermal_ratio, 1.5) / np.sqrt(1 + away) * np.exp(-away / 12)
        return np.asarray(amplitude * np.exp(-0.5 * (across / (0.5 * height)) ** 2))
