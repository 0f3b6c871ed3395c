"""Draw the subhaloes of one lens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lenspipe.sim.distances import Cosmology, Distances
from lenspipe.sim.learners import log_uniform
from lenspipe.sim.substructure.config import Subhaloes

Floats = NDArray[np.float64]
_PIVOT = 1e8


@dataclass(frozen=True)
class Haloes:
    """M truncated NFW haloes in a disc about the origin.

    Attributes
    ----------
    x, y, Rs, alpha_Rs, r_trunc : (M,) arcsec, as `lenspipe.lensing.substructure.tnfw` takes them.
    infall_mass, mass : (M,) solar masses; 200 times the critical density at infall, and what truncation leaves.
    radius : arcsec, of the disc that they fill.
    kappa : their mean convergence in it.
    """

    x: Floats
    y: Floats
    Rs: Floats
    alpha_Rs: Floats
    r_trunc: Floats
    infall_mass: Floats
    mass: Floats
    radius: float
    kappa: float
    sigma_sub: float
    log10_host_mass: float

    @classmethod
    def of(cls, distances: Distances, *, Rs: Floats, alpha_Rs: Floats, r_trunc: Floats, **others: Any) -> Haloes:
        """With `mass` and `kappa` as they follow from the lensing parameters."""
        kpc, critical = distances.kpc_per_arcsec, distances.sigma_critical
        # The whole mass over that of a profile without truncation, 4 pi rho0 Rs^3 = pi Rs alpha Sigma_cr / (1 - ln 2).
        mass = math.pi * kpc**2 * Rs * alpha_Rs * critical / (1 - math.log(2)) * _total(r_trunc / Rs)
        kappa = float(mass.sum() / (math.pi * (others["radius"] * kpc) ** 2 * critical))
        return cls(Rs=Rs, alpha_Rs=alpha_Rs, r_trunc=r_trunc, mass=mass, kappa=kappa, **others)


def draw_haloes(
    rng: Generator, options: Subhaloes, distances: Distances, cosmology: Cosmology, radius: float
) -> Haloes:
    """Subhaloes with Poisson numbers, evenly over a disc of `radius` arcsec: the host's core is far larger."""
    z, kpc = distances.z_lens, distances.kpc_per_arcsec
    sigma_sub = log_uniform(rng, options.sigma_sub)
    log10_host = float(rng.normal(*options.log10_host_mass))
    scaling = 10 ** (0.88 * (log10_host - 13) + 1.7 * math.log10(z + 0.5))
    area = math.pi * (radius * kpc) ** 2
    number = rng.poisson(area * sigma_sub * scaling * _number_per_sigma(options))
    infall = draw_masses(rng, options, number)
    place, angle = radius * np.sqrt(rng.uniform(size=number)), rng.uniform(0, 2 * np.pi, number)

    critical = cosmology.astropy().critical_density(z).to_value("solMass / kpc3")
    concentration = concentrations(infall, z, cosmology) * 10 ** rng.normal(0, options.concentration_scatter, number)
    r200 = np.cbrt(3 * infall / (800 * math.pi * critical))  # kpc
    Rs = r200 / concentration
    rho0_Rs3 = infall / (4 * math.pi * (np.log1p(concentration) - concentration / (1 + concentration)))
    r_trunc = _truncation(rng, options, infall, place * kpc, log10_host, critical)
    # Deflection at Rs of the whole halo: its projected mass there over pi Rs Sigma_cr.
    alpha = 4 * rho0_Rs3 * (1 - math.log(2)) / (Rs * distances.sigma_critical) / kpc
    return Haloes.of(
        distances,
        x=place * np.cos(angle),
        y=place * np.sin(angle),
        Rs=Rs / kpc,
        alpha_Rs=alpha,
        r_trunc=r_trunc / kpc,
        infall_mass=infall,
        radius=radius,
        sigma_sub=sigma_sub,
        log10_host_mass=log10_host,
    )


def draw_masses(rng: Generator, options: Subhaloes, number: int) -> Floats:
    """(M,) solar masses from dN/dm ~ m^slope between the ends, by the inverse of its integral."""
    power = options.slope + 1
    low, high = (end**power for end in options.mass)
    return np.asarray((low + rng.uniform(size=number) * (high - low)) ** (1 / power))


def concentrations(mass: Floats, z: float, cosmology: Cosmology) -> Floats:
    """Median c200 of haloes of `mass` (Dutton & Maccio 2014, MNRAS 441, 3359, eqs. 7, 10 and 11, NFW fits)."""
    intercept = 0.520 + (0.905 - 0.520) * math.exp(-0.617 * z**1.21)
    slope = -0.101 + 0.026 * z
    return np.asarray(10 ** (intercept + slope * np.log10(mass * (cosmology.H0 / 100) / 1e12)))


def _number_per_sigma(options: Subhaloes) -> float:
    """Haloes per area between the ends of the mass function for sigma_sub F = 1."""
    power = options.slope + 1
    low, high = ((end / _PIVOT) ** power for end in options.mass)
    return (high - low) / power


def _truncation(
    rng: Generator, options: Subhaloes, mass: Floats, projected: Floats, log10_host: float, critical: float
) -> Floats:
    """r_t = 1.4 (m / 10^7)^(1/3) (r / 50 kpc)^(2/3) kpc (Gilman et al. 2020), r the distance from the centre.

    Along the line of sight haloes follow 1 / (1 + (z / r_s)^2) within r200: flat inside the host's scale radius r_s.
    """
    r200 = (3 * 10**log10_host / (800 * math.pi * critical)) ** (1 / 3)
    core = r200 / options.host_concentration
    depth = core * np.tan(rng.uniform(-1, 1, len(mass)) * math.atan(options.host_concentration))
    return np.asarray(1.4 * np.cbrt(mass / 1e7) * (np.hypot(projected, depth) / 50) ** (2 / 3))


def _total(tau: Floats) -> Floats:
    import torch

    from lenspipe.lensing.substructure import total

    return np.asarray(total(torch.as_tensor(tau)).numpy())
