"""The galaxies of a piece of sky, drawn by SkyPy (Amara et al. 2021, JOSS 6, 3056): red ones lens, blue ones are seen.

slsim is installed without its files for SkyPy, so galaxies are described here. Luminosity functions in the B band and
mixtures of five spectra: Herbel et al. 2017, JCAP 8, 35; sizes: Shen et al. 2003, MNRAS 343, 978, table 1. Velocity
dispersions of red galaxies, by abundance matching, and the growth of blue ones with time are slsim's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from astropy import units
from numpy.random import Generator
from numpy.typing import NDArray

from lenspipe.errors import LenspipeError
from lenspipe.sim.by_slsim.config import Slsim
from lenspipe.sim.drawing import numpy_seeded
from lenspipe.sim.physical import RED_NM
from lenspipe.sim.scene import Range
from lenspipe.sim.survey import Survey

_FAINTER = 3.0
"""mag by which B, without K-correction, may be fainter than the band of the cuts."""
_STEP = 0.01
"""In redshift."""
_MATCHED = 0.5
"""Redshift below which slsim matches stellar masses with velocity dispersions."""
_EVOLVES = 2.0
"""Redshift to which luminosity functions evolve. Drawn on as straight lines, 23 times as many galaxies brighter than
-21.5 at 150 nm would lie at redshift 3.8 as Bouwens et al. 2015, ApJ 803, 34, see; held from here on, densities are 0.5
to 1.2 times those at redshifts 2.3 to 3.8 (also Reddy & Steidel 2009, ApJ 692, 778)."""
_FILTERS = (
    *(f"lsst2023-{band}" for band in "ugrizy"),
    *("Euclid-J", "Euclid-H", "twomass-Ks", "wise2010-W1", "wise2010-W2"),
)
"""Rising in wavelength. A survey's band takes its magnitude from its neighbours among them."""


@dataclass(frozen=True)
class _Kind:
    """Galaxies of one colour.

    Attributes
    ----------
    M_star : mag in B, at redshift 0 and its slope with redshift, up to `_EVOLVES`.
    phi_star : per cubic Mpc at redshift 0, and its exponential rate with redshift, likewise.
    alpha : faint slope.
    spectra : parameters of the Dirichlet distribution at redshift 0 and at 1, and weights, of the five spectra.
    size : alpha, beta and gamma of the half-light radius.
    """

    colour: str
    role: str
    M_star: tuple[float, float]
    phi_star: tuple[float, float]
    alpha: float
    spectra: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    size: tuple[float, float, float]

    def luminosity_function(self, z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`M_star` and `phi_star` at redshifts."""
        held = np.minimum(z, _EVOLVES)
        return self.M_star[0] + self.M_star[1] * held, self.phi_star[0] * np.exp(self.phi_star[1] * held)

    def radius(self, M_r: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
        """kpc, half light, at an absolute magnitude in r."""
        from skypy.galaxies.morphology import late_type_lognormal_size
        from slsim.Util.param_util import galaxy_size_redshift_evolution

        alpha, beta, gamma = self.size
        today = late_type_lognormal_size(M_r, alpha, beta, gamma, **_SIZE_SCATTER).to_value("kpc")
        # slsim's factor, by which the sizes of sources meet those of Shibuya et al. 2015, ApJS 219, 15.
        return np.asarray(today * galaxy_size_redshift_evolution(z) / 2.5 if self.role == "source" else today)


_RED = _Kind(
    "red",
    "lens",
    M_star=(-20.37196157, -0.70798041),
    phi_star=(0.0035097, -0.70596888),
    alpha=-0.5,
    spectra=(
        (2.461, 2.358, 2.568, 2.268, 2.402),
        (2.410, 2.340, 2.200, 2.540, 2.464),
        (3.84e9, 1.57e6, 3.91e8, 4.66e10, 3.03e7),
    ),
    size=(0.60, 0.60, -4.63),
)
_BLUE = _Kind(
    "blue",
    "source",
    M_star=(-20.40492365, -0.9408582),
    phi_star=(0.00370253, -0.10268436),
    alpha=-1.3,
    spectra=(
        (2.079, 3.524, 1.917, 1.992, 2.536),
        (2.265, 3.862, 1.921, 1.685, 2.480),
        (3.47e9, 3.31e6, 2.13e9, 1.64e10, 1.01e9),
    ),
    size=(0.21, 0.53, -1.31),
)
_SIZE_SCATTER = {"M0": -20.52, "sigma1": 0.48, "sigma2": 0.25}


@dataclass(frozen=True)
class Sample:
    """N galaxies of one colour that the cuts on redshift and magnitude keep.

    Attributes
    ----------
    z : (N,) redshifts.
    M : (N,) absolute AB magnitude at rest, in r for red ones and in the far ultraviolet (155 nm) for blue ones.
    magnitude : (N, B) AB, in the survey's bands.
    radius : (N,) kpc, half light.
    angular_size : (N,) the same in arcsec.
    stellar_mass : (N,) solar masses.
    sigma_v : (N,) km/s; 0 for blue ones.
    """

    z: NDArray[np.float64]
    M: NDArray[np.float64]
    magnitude: NDArray[np.float64]
    radius: NDArray[np.float64]
    angular_size: NDArray[np.float64]
    stellar_mass: NDArray[np.float64]
    sigma_v: NDArray[np.float64]


@dataclass(frozen=True)
class Galaxies:
    """Those of one piece of sky.

    Attributes
    ----------
    taken : (N,) cumulative share of lines of sight that pass a red galaxy where it may lens: its theta_E squared.
    """

    red: Sample
    blue: Sample
    taken: NDArray[np.float64]


def draw_galaxies(rng: Generator, options: Slsim, survey: Survey) -> Galaxies:
    """Red galaxies on `lens_area`, blue ones on `source_area`.

    Raises
    ------
    LenspipeError : slsim or what it needs is not installed, or the cuts keep no galaxy of a colour.
    """
    try:
        for name in ("skypy.galaxies.spectrum", "speclite.filters", "slsim.Lenses.lens", "slsim.Sources.source"):
            import_module(name)
    except ImportError as error:
        raise LenspipeError(
            f"simulate: population.slsim needs slsim, SkyPy and speclite ({error}): pip install 'lenspipe[slsim]'."
        ) from None
    cuts = options.cuts
    with numpy_seeded(rng):
        red = _draw(_RED, options, options.lens_area, options.z_lens, cuts.lens_magnitude, survey)
        blue = _draw(_BLUE, options, options.source_area, options.z_source, cuts.source_magnitude, survey)
    taken = np.cumsum(red.sigma_v**4)
    return Galaxies(red, blue, taken / taken[-1])


def _draw(kind: _Kind, options: Slsim, area: float, z_within: Range, faintest: float, survey: Survey) -> Sample:
    from skypy.galaxies.luminosity import schechter_lf_magnitude
    from skypy.galaxies.redshift import schechter_lf_redshift
    from skypy.galaxies.spectrum import dirichlet_coefficients, kcorrect

    cosmos, is_red = options.cosmology.astropy(), kind is _RED
    limit = faintest + _FAINTER
    grid = np.arange(_STEP, max(z_within[1], _MATCHED if is_red else 0) + _STEP, _STEP)
    M_star, phi_star = kind.luminosity_function(grid)
    z = schechter_lf_redshift(grid, M_star, phi_star, kind.alpha, limit, area * units.deg**2, cosmos)
    inside = (z_within[0] <= z) & (z <= z_within[1])
    nothing = LenspipeError(
        f"simulate: population.slsim drew {len(z)} {kind.colour} galaxies on {area:g} square degrees and keeps none: "
        f"{inside.sum()} have z_{kind.role} within {z_within[0]:g} to {z_within[1]:g}, 0 of them pass "
        f"cuts.{kind.role}_magnitude {faintest:g}."
    )
    if not inside.any():
        raise nothing
    M_B = schechter_lf_magnitude(z, kind.luminosity_function(z)[0], kind.alpha, limit, cosmos)
    low, high, weight = kind.spectra
    coefficients = dirichlet_coefficients(z, low, high, weight=weight)
    stellar_mass = kcorrect.stellar_mass(coefficients, M_B, "bessell-B")
    sigma_v = _velocity_dispersion(z, stellar_mass, area, cosmos) if is_red else np.zeros_like(z)
    magnitude = _magnitudes(z, coefficients, stellar_mass, options, np.append(survey.per_band("wavelength"), RED_NM))
    keep = inside & (magnitude[:, -1] <= faintest)
    if not keep.any():
        raise nothing
    z, coefficients, stellar_mass, sigma_v = (a[keep] for a in (z, coefficients, stellar_mass, sigma_v))
    M_r = kcorrect.absolute_magnitudes(coefficients, "sdss2010-r", stellar_mass=stellar_mass)
    radius = kind.radius(M_r, z)
    return Sample(
        z,
        M_r if is_red else kcorrect.absolute_magnitudes(coefficients, "galex-fuv", stellar_mass=stellar_mass),
        magnitude[keep, :-1],
        radius,
        np.rad2deg(radius / cosmos.angular_diameter_distance(z).to_value("kpc")) * 3600,
        stellar_mass,
        sigma_v,
    )


def _velocity_dispersion(
    z: NDArray[np.float64], stellar_mass: NDArray[np.float64], area: float, cosmos: Any
) -> NDArray[np.float64]:
    """km/s: the most massive galaxy on the sky has the greatest dispersion of SDSS, and so on."""
    from astropy.table import Table
    from slsim.Deflectors.MassLightConnection.velocity_dispersion import vel_disp_abundance_matching

    table = Table({"z": z, "stellar_mass": stellar_mass})
    with _trapz():
        matched = vel_disp_abundance_matching(table, z_max=_MATCHED, sky_area=area * units.deg**2, cosmo=cosmos)
    return np.asarray(matched(np.log10(stellar_mass)), dtype=np.float64)


@contextmanager
def _trapz() -> Iterator[None]:
    """slsim 0.1.1 calls `numpy.trapezoid` by its old name, which NumPy 2.4 has no more."""
    if hasattr(np, "trapz"):
        yield
        return
    np.trapz = np.trapezoid  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del np.trapz  # type: ignore[attr-defined]


def _magnitudes(
    z: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    stellar_mass: NDArray[np.float64],
    options: Slsim,
    wavelength: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(N, W) AB magnitudes at `wavelength` in nm, interpolated between filters; flat beyond them."""
    from skypy.galaxies.spectrum import kcorrect
    from speclite.filters import load_filters

    nodes = np.array([response.effective_wavelength.to_value("nm") for response in load_filters(*_FILTERS)])
    weights = np.array([np.interp(wavelength, nodes, unit) for unit in np.eye(len(nodes))])
    used = weights.any(axis=1)
    names = [_FILTERS[i] for i in np.flatnonzero(used)]
    magnitude = kcorrect.apparent_magnitudes(
        coefficients, z, names, options.cosmology.astropy(), stellar_mass=stellar_mass, resolution=100
    )
    return np.asarray(magnitude.reshape(len(z), -1) @ weights[used])
