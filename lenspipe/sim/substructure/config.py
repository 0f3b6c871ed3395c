"""Every number of the lenses with and without substructure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lenspipe.config import Config
from lenspipe.sim.galaxy_lens import GalaxyLenses
from lenspipe.sim.learners import Range

CLASSES = ("no", "cdm", "vortex")


class Subhaloes(Config):
    """Cold dark matter: dN / dm dA = (sigma_sub / m0) (m / m0)^slope F(host mass, z), m0 = 10^8 solar masses.

    Gilman et al. 2020, MNRAS 491, 6077: m is the mass at infall (within 200 times the critical density), F scales
    with the host, log10 F = 0.88 log10(M_host / 10^13) + 1.7 log10(z + 0.5). Haloes below 10^7 would be eight times as
    many and are left out by default: they deflect by thousandths of an arcsec, far less than a pixel.
    """

    population: Literal["power_law", "pyhalo"] = Field(
        "power_law",
        description="pyhalo: drawn by pyHalo (pip install 'lenspipe[pyhalo]') from the same mass function, with its "
        "own scaling with the host, concentrations and tidal truncation",
    )
    mass: Range = Field((1e7, 1e10), description="solar masses, ends of the mass function")
    slope: float = Field(-1.9, lt=-1, description="of dN/dm (Springel et al. 2008, MNRAS 391, 1685)")
    sigma_sub: Range = Field((0.01, 0.1), description="per square kpc, log-uniform (Gilman et al. 2020: 0 to 0.1)")
    log10_host_mass: tuple[float, float] = Field((13.0, 0.3), description="log10 of solar masses, mean and scatter")
    host_concentration: float = Field(5.0, gt=0, description="r200 over scale radius of the host")
    concentration_scatter: float = Field(0.11, ge=0, description="dex (Dutton & Maccio 2014, MNRAS 441, 3359)")

    @model_validator(mode="after")
    def _ordered(self) -> Subhaloes:
        for name in ("mass", "sigma_sub"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first")
        return self


class Vortex(Config):
    """A vortex in a superfluid of axions, as a straight string of mass (Alexander et al. 2020, ApJ 893, 15).

    Its length is the axion's de Broglie wavelength h / (m sigma_v).
    """

    axion_mass: Range = Field((1e-24, 1e-22), description="eV, log-uniform")
    mass_fraction: Range = Field((0.01, 0.05), description="of the mass within theta_E, log-uniform")
    offset: float = Field(0.3, ge=0, description="in theta_E: the middle lies uniformly in a disc of this radius")


class Lenses(GalaxyLenses):
    """Lenses with room for substructure."""

    subhaloes: Subhaloes = Subhaloes()
    vortex: Vortex = Vortex()
