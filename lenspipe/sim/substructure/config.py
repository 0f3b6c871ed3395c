"""Every number of the lenses with and without substructure."""

from __future__ import annotations

from pydantic import Field, model_validator

from lenspipe.config import Config
from lenspipe.sim.distances import Cosmology
from lenspipe.sim.learners import Range

CLASSES = ("no", "cdm", "vortex")


class Subhaloes(Config):
    """Cold dark matter: dN / dm dA = (sigma_sub / m0) (m / m0)^slope F(host mass, z), m0 = 10^8 solar masses.

    Gilman et al. 2020, MNRAS 491, 6077: m is the mass at infall (within 200 times the critical density), F scales
    with the host, log10 F = 0.88 log10(M_host / 10^13) + 1.7 log10(z + 0.5). Haloes below 10^7 would be eight times as
    many and are left out by default: they deflect by thousandths of an arcsec, far less than a pixel.
    """

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


class Lenses(Config):
    """The lens itself, its source, and what is kept. All of it is drawn anew for every object."""

    cosmology: Cosmology = Cosmology()
    z_lens: Range = Field((0.2, 0.8), description="uniform")
    z_source: Range = Field((1.0, 3.0), description="uniform")
    sigma_v: Range = Field((190.0, 320.0), description="km/s, uniform; theta_E is that of an isothermal lens")
    gamma: tuple[float, float] = Field(
        (2.08, 0.16), description="slope of the power law, mean and scatter (Auger et al. 2010, ApJ 724, 511)"
    )
    axis_ratio: Range = Field((0.6, 0.98), description="uniform")
    shear: Range = Field((0.0, 0.1), description="modulus, uniform; any direction")
    centre: float = Field(0.05, ge=0, description="arcsec, scatter of the lens about the cutout's centre, per axis")
    source_offset: float = Field(
        0.35, ge=0, description="in theta_E: the source lies uniformly in a disc of this radius"
    )
    source_magnitude: Range = Field((22.0, 24.5), description="mag before lensing, uniform")
    source_radius: Range = Field((0.08, 0.35), description="arcsec, half light, uniform")
    source_n_sersic: Range = Field((0.6, 2.0), description="uniform")
    source_axis_ratio: Range = Field((0.4, 1.0), description="uniform")
    lens_light: bool = Field(True, description="the lens shines; false: as if it were subtracted without a trace")
    lens_magnitude: tuple[float, float] = Field(
        (19.2, 0.35), description="mag of a lens of 250 km/s at redshift 0.4, and scatter; L grows as sigma_v^4"
    )
    lens_radius: tuple[float, float] = Field((0.9, 0.25), description="in theta_E, half light, median and ln scatter")
    lens_n_sersic: Range = Field((3.0, 5.0), description="uniform")
    theta_E: Range = Field((0.7, 2.0), description="arcsec, cut: lenses outside are drawn again")
    min_arc_snr: float = Field(50.0, description="cut: S/N of all pixels of the arcs together")
    subhaloes: Subhaloes = Subhaloes()
    vortex: Vortex = Vortex()

    @model_validator(mode="after")
    def _possible(self) -> Lenses:
        for name in ("z_lens", "z_source", "sigma_v", "axis_ratio", "source_radius", "source_axis_ratio", "theta_E"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first")
        if self.z_lens[0] >= self.z_source[1]:
            raise ValueError("z_source lies wholly in front of z_lens")
        return self
