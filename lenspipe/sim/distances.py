"""Distances of a lens and its source, and the scales of lensing that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM
from pydantic import Field

from lenspipe.config import Config

ARCSEC = math.pi / 180 / 3600
"""rad"""
LIGHT = constants.c.to_value("km/s")
_CRITICAL = (constants.c**2 / (4 * np.pi * constants.G)).to_value(units.solMass / units.Mpc)
_MPC_IN_LIGHT_DAYS = (1 * units.Mpc / constants.c).to_value(units.day)


class Cosmology(Config):
    """A flat universe with a cosmological constant."""

    H0: float = Field(70.0, gt=0, description="km/s/Mpc")
    Om0: float = Field(0.3, gt=0, lt=1, description="matter density today, in critical ones")

    def astropy(self) -> FlatLambdaCDM:
        return _astropy(self.H0, self.Om0)


@lru_cache
def _astropy(H0: float, Om0: float) -> FlatLambdaCDM:
    """One object for all: to make one takes far longer than to ask it for a distance."""
    return FlatLambdaCDM(H0=H0, Om0=Om0)


@dataclass(frozen=True)
class Distances:
    """Angular-diameter distances in Mpc; `between` is that from the lens to the source, not a difference."""

    z_lens: float
    z_source: float
    to_lens: float
    to_source: float
    between: float

    @classmethod
    def of(cls, z_lens: float, z_source: float, cosmology: Cosmology) -> Distances:
        """ValueError where the source is not behind the lens or a redshift is not positive."""
        if not 0 < z_lens < z_source:
            raise ValueError(
                f"a lens at redshift {z_lens} with a source at {z_source}: 0 < z_lens < z_source is needed"
            )
        return _distances(z_lens, z_source, cosmology)

    def theta_E(self, sigma_v: float) -> float:
        """Einstein radius in arcsec of an isothermal lens: 4 pi (sigma_v / c)^2 D_ls / D_s, `sigma_v` in km/s."""
        return 4 * math.pi * (sigma_v / LIGHT) ** 2 * self.between / self.to_source / ARCSEC

    @property
    def kpc_per_arcsec(self) -> float:
        """In the lens plane."""
        return self.to_lens * 1e3 * ARCSEC

    @property
    def sigma_critical(self) -> float:
        """Critical surface density, solar masses per square kpc in the lens plane."""
        return float(_CRITICAL * self.to_source / (self.to_lens * self.between) * 1e-6)

    def point_theta_E(self, mass: float) -> float:
        """Einstein radius in arcsec of a point of `mass` solar masses."""
        return math.sqrt(mass / (math.pi * self.sigma_critical)) / self.kpc_per_arcsec

    @property
    def delay_days(self) -> float:
        """Days per square arcsec of Fermat potential: D_dt / c with D_dt = (1 + z_l) D_l D_s / D_ls."""
        distance = (1 + self.z_lens) * self.to_lens * self.to_source / self.between
        return float(distance * _MPC_IN_LIGHT_DAYS * ARCSEC**2)


@lru_cache(maxsize=4096)
def _distances(z_lens: float, z_source: float, cosmology: Cosmology) -> Distances:
    cosmos = cosmology.astropy()
    to_lens, to_source = (float(cosmos.angular_diameter_distance(z).value) for z in (z_lens, z_source))
    between = float(cosmos.angular_diameter_distance(z_lens, z_source).value)
    return Distances(z_lens, z_source, to_lens, to_source, between)
