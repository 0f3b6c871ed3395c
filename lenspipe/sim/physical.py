"""Lenses as galaxies: redshifts, velocity dispersions, the fundamental plane, luminosity functions, distances.

Early-type galaxies are drawn by comoving volume and velocity-dispersion function, sources by redshift and luminosity
function, and pairs of them by the area of the lens. What stays after the cuts is a population of lenses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lenspipe.config import Config
from lenspipe.errors import LenspipeError
from lenspipe.sim.colours import OLD, UV, VISUAL, YOUNG, redshifted
from lenspipe.sim.distances import ARCSEC, LIGHT, Cosmology, Distances
from lenspipe.sim.scene import Light, Range, Scene, ellipticity
from lenspipe.sim.survey import Survey

_DRAWS = 20_000
"""Pairs of galaxies for one lens, at most."""
_WIDEST = 4.0
"""arcsec: above this Einstein radius a pair is not taken more often for its area."""
RED_NM = 781.0
"""Wavelength of the magnitudes that are cut."""


class Cuts(Config):
    """Pairs beyond these are not kept. Two more cuts need the image: `min_magnification`, `min_arc_snr`."""

    theta_E: Range = Field((0.5, 4.0), description="arcsec")
    lens_magnitude: float = Field(22.0, description="AB mag at 781 nm; fainter lenses are cut")
    source_magnitude: float = Field(26.5, description="AB mag at 781 nm before lensing; fainter sources are cut")


class Pairs(Config):
    """What any population of galaxies that lie behind each other says."""

    cosmology: Cosmology = Cosmology()
    z_lens: Range = Field((0.1, 1.0), description="between these")
    z_source: Range = Field((0.2, 5.0), description="between these")
    flattening: float = Field(0.2, gt=0, description="1 - q of the lens is Rayleigh of this scale, q above 0.3")
    shear: float = Field(0.035, ge=0, description="of each component, Gaussian")
    source_n_sersic: Range = Field((0.6, 2.5), description="uniform")
    source_axis_ratio: Range = Field((0.3, 1.0), description="uniform")

    @model_validator(mode="after")
    def _behind(self) -> Pairs:
        for name in ("z_lens", "z_source"):
            _rising(name, getattr(self, name))
        if self.z_lens[0] >= self.z_source[1]:
            raise ValueError("z_source must reach beyond z_lens: no source would be behind a lens")
        return self

    def draw_axis_ratio(self, rng: Generator) -> float:
        """Of a lens."""
        most = 0.7
        truncated = rng.uniform(0, 1 - math.exp(-0.5 * (most / self.flattening) ** 2))
        return 1 - self.flattening * math.sqrt(-2 * math.log(1 - truncated))


def _rising(name: str, ends: Range) -> None:
    low, high = ends
    if not 0 < low < high:
        raise ValueError(f"{name} must be two numbers, 0 < first < second (got {low:g}, {high:g})")


class Physical(Pairs):
    """Every number of the two populations. Lenses are drawn by comoving volume."""

    sigma_v: Range = Field((150.0, 400.0), description="km/s, by the velocity-dispersion function between these")
    sigma_star: float = Field(161.0, gt=0, description="km/s; Choi, Park & Vogeley 2007, ApJ 658, 884, early types")
    sigma_alpha: float = Field(2.32, description="of the same: dn/dsigma goes as x^(alpha-1) exp(-x^beta)")
    sigma_beta: float = Field(2.67, gt=0, description="of the same")
    magnitude_scatter: float = Field(0.3, ge=0, description="mag about the mean luminosity at a velocity dispersion")
    plane_scatter: float = Field(0.05, ge=0, description="dex of radius about the fundamental plane")
    z_source_scale: float = Field(0.9, gt=0, description="z0 of dn/dz ~ z^2 exp(-(z/z0)^1.5), Smail et al. 1994")
    source_M_star: float = Field(-20.2, description="AB mag at 150 nm, of the Schechter function")
    source_alpha: float = Field(-1.5, description="faint slope of the Schechter function")
    source_M: Range = Field((-23.0, -17.5), description="AB mag at 150 nm, between these")
    source_radius: float = Field(6.9, gt=0, description="kpc at z 0 and M -21; Shibuya et al. 2015, ApJS 219, 15")
    source_radius_z: float = Field(-1.2, description="power of 1 + z in it")
    source_radius_L: float = Field(0.27, description="power of the luminosity in it")
    source_radius_scatter: float = Field(0.45, ge=0, description="natural log, Gaussian")
    more_sources: float = Field(0.2, ge=0, description="mean number of fainter galaxies beside the source, Poisson")
    second_plane: float = Field(0.0, ge=0, le=1, description="share of lenses with a source behind the first one too")
    cuts: Cuts = Cuts()

    @model_validator(mode="after")
    def _possible(self) -> Physical:
        _rising("sigma_v", self.sigma_v)
        if not self.source_M[0] < self.source_M[1]:
            raise ValueError("source_M must be two numbers, the brighter first")
        return self


@dataclass(frozen=True)
class Look:
    """What the rest of the population says of a lens: arcsec, radians, mag.

    Attributes
    ----------
    centre, n_sersic : of the lens light.
    turn, flatter : angle between light and mass, and difference of their |e|.
    source_offset : in theta_E, radius of the disc over which sources lie.
    lens_scatter, source_scatter : (B,) of the colours.
    """

    centre: tuple[float, float]
    n_sersic: float
    turn: float
    flatter: float
    source_offset: float
    lens_scatter: NDArray[np.float64]
    source_scatter: NDArray[np.float64]


@dataclass(frozen=True)
class _Pair:
    sigma_v: float
    distances: Distances
    theta_E: float
    lens_M: float
    lens_radius: float
    source_M: float


def lens(rng: Generator, p: Physical, look: Look, survey: Survey) -> Scene:
    """One lens that the cuts keep; `LenspipeError` says which of them removed how many where none is kept."""
    pair = _pair(rng, p)
    d, wavelength = pair.distances, survey.per_band("wavelength")
    scale = d.kpc_per_arcsec
    x, y = look.centre
    q = p.draw_axis_ratio(rng)
    modulus, angle = (1 - q) / (1 + q), rng.uniform(0, 2 * math.pi)
    flat, turned = abs(modulus + look.flatter), angle + 2 * look.turn
    red = pair.lens_M + _modulus(d.z_lens, d.to_lens) + redshifted(OLD, d.z_lens, wavelength, VISUAL)
    light = Light(
        "lens",
        red + rng.normal(0, look.lens_scatter),
        x,
        y,
        pair.lens_radius / scale,
        look.n_sersic,
        flat * math.cos(turned),
        flat * math.sin(turned),
    )
    mass = {
        "theta_E": pair.theta_E,
        "e1": modulus * math.cos(angle),
        "e2": modulus * math.sin(angle),
        "center_x": x,
        "center_y": y,
        "gamma1": float(rng.normal(0, p.shear)),
        "gamma2": float(rng.normal(0, p.shear)),
    }
    beta, side = pair.theta_E * look.source_offset * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
    place = (x + beta * math.cos(side), y + beta * math.sin(side))
    source, radius = _source(rng, p, look, survey, pair.source_M, d.z_source, d.to_source, place, 1)
    more = []
    for _ in range(rng.poisson(p.more_sources)):
        near = tuple(c + rng.normal(0, 2 * source.radius) for c in place)
        fainter = pair.source_M + rng.uniform(0.5, 2.5)
        more.append(_source(rng, p, look, survey, fainter, d.z_source, d.to_source, (near[0], near[1]), 1)[0])
    facts = {
        "z_lens": d.z_lens,
        "z_source": d.z_source,
        "sigma_v": pair.sigma_v,
        "lens_M_r": pair.lens_M,
        "lens_radius": pair.lens_radius,
        "source_M_uv": pair.source_M,
        "source_radius": radius,
        "n_sources": 1.0 + len(more),
    }
    scene = Scene("lens", (light, source, *more), mass, facts=facts)
    return _with_second_plane(rng, p, look, survey, scene, pair) if rng.uniform() < p.second_plane else scene


def _with_second_plane(rng: Generator, p: Physical, look: Look, survey: Survey, scene: Scene, pair: _Pair) -> Scene:
    """`scene` with a source behind the first, which lenses it too (Gavazzi et al. 2008, ApJ 677, 1046)."""
    d, tables = pair.distances, _tables(p)
    if d.z_source > 0.95 * p.z_source[1]:
        return scene
    z = _draw(rng, tables.z_source, low=d.z_source * 1.05)
    far, between = Distances.of(d.z_lens, z, p.cosmology), Distances.of(d.z_source, z, p.cosmology)
    # How much more the lens bends light from behind: D_ls2 D_s / (D_s2 D_ls).
    scale = far.between / far.to_source * d.to_source / d.between
    # A Tully-Fisher-like guess: 110 km/s at M_star, L ~ sigma^4.
    sigma = 110 * 10 ** (-0.1 * (pair.source_M - p.source_M_star))
    first = scene.lights[1]
    behind = {"theta_E": between.theta_E(sigma), "e1": first.e1, "e2": first.e2}
    behind |= {"center_x": first.x, "center_y": first.y, "scale": scale}
    beta, side = scale * pair.theta_E * look.source_offset * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
    place = (look.centre[0] + beta * math.cos(side), look.centre[1] + beta * math.sin(side))
    M = _draw(rng, tables.source_M)
    source, _ = _source(rng, p, look, survey, M, z, far.to_source, place, 2)
    facts = {
        "z_source2": z,
        "source2_center_x": source.x,
        "source2_center_y": source.y,
        "source2_scale": scale,
        "source_theta_E": behind["theta_E"],
    }
    return Scene("lens", (*scene.lights, source), scene.mass, behind, {**scene.facts, **facts})


def _pair(rng: Generator, p: Physical) -> _Pair:
    """A lens and a source that the cuts keep."""
    t, cuts = _tables(p), p.cuts
    lost = {"theta_E": 0, "lens_magnitude": 0, "source_magnitude": 0}
    for _ in range(_DRAWS):
        z_lens, z_source = _draw(rng, t.z_lens), _draw(rng, t.z_source)
        sigma, M = _draw(rng, t.sigma), _draw(rng, t.source_M)
        scatter, plane = rng.normal(0, p.magnitude_scatter), rng.normal(0, p.plane_scatter)
        taken = rng.uniform()
        quick = t.theta_E(z_lens, z_source, sigma)  # 0 where the source is in front
        if taken >= (quick / _WIDEST) ** 2:
            continue
        if not cuts.theta_E[0] <= quick <= cuts.theta_E[1]:
            lost["theta_E"] += 1
            continue
        today, radius = early_type(sigma, scatter, plane)
        lens_M = today - 0.85 * z_lens
        d = Distances.of(z_lens, z_source, p.cosmology)
        at = np.array([RED_NM])
        seen = lens_M + _modulus(z_lens, d.to_lens) + redshifted(OLD, z_lens, at, VISUAL)[0]
        behind = M + _modulus(z_source, d.to_source) + redshifted(YOUNG, z_source, at, UV)[0]
        if seen > cuts.lens_magnitude:
            lost["lens_magnitude"] += 1
        elif behind > cuts.source_magnitude:
            lost["source_magnitude"] += 1
        else:
            return _Pair(sigma, d, d.theta_E(sigma), lens_M, radius, M)
    worst = max(lost, key=lambda name: lost[name])
    raise LenspipeError(
        f"simulate: of {_DRAWS} pairs of galaxies drawn from population.physical none was kept; the cut on {worst} "
        f"removed most of those that may lens ({', '.join(f'{name} {k}' for name, k in lost.items())})."
    )


def early_type(sigma_v: float, magnitude: float, plane: float) -> tuple[float, float]:
    """Absolute r magnitude today and half-light radius in kpc at a velocity dispersion in km/s.

    Luminosity: Bernardi et al. 2003, AJ 125, 1849, log sigma = 2.203 - 0.102 (M_r + 21.15); radius: the fundamental
    plane of Bernardi et al. 2003, AJ 125, 1866, log R = 1.49 log sigma - 0.75 log I - 8.78, I the mean brightness.
    `magnitude` (mag) and `plane` (dex) are the scatter about them. M_r brightens by 0.85 z.
    """
    mean = -21.15 - (math.log10(sigma_v) - 2.203) / 0.102
    brightness = mean + magnitude + 2.5 * math.log10(2 * math.pi) + 36.57
    # The surface brightness holds the radius itself: log R (1 - 1.5) = ...
    log_radius = -2 * (1.49 * math.log10(sigma_v) + 0.3 * brightness - 8.78 + plane)
    return mean + magnitude, float(np.clip(10**log_radius, 0.5, 40.0))


def _source(
    rng: Generator,
    p: Physical,
    look: Look,
    survey: Survey,
    M: float,
    z: float,
    distance: float,
    place: tuple[float, float],
    plane: int,
) -> tuple[Light, float]:
    """A star-forming galaxy of absolute magnitude `M` at 150 nm, `distance` in Mpc away; and its radius in kpc."""
    wavelength = survey.per_band("wavelength")
    magnitude = M + _modulus(z, distance) + redshifted(YOUNG, z, wavelength, UV)
    mean = p.source_radius * (1 + z) ** p.source_radius_z * 10 ** (-0.4 * p.source_radius_L * (M + 21))
    kpc = mean * math.exp(rng.normal(0, p.source_radius_scatter))
    radius = max(kpc / (distance * 1e3) / ARCSEC, 0.01)
    e1, e2 = ellipticity(rng, p.source_axis_ratio)
    n_sersic = rng.uniform(*p.source_n_sersic)
    light = Light(
        "source", magnitude + rng.normal(0, look.source_scatter), *place, radius, n_sersic, e1, e2, plane=plane
    )
    return light, kpc


def _modulus(z: float, distance: float) -> float:
    """Distance modulus from the angular-diameter distance in Mpc."""
    return 5 * math.log10(distance * (1 + z) ** 2) + 25


_Table = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Values, and the cumulative distribution at them."""


@dataclass(frozen=True)
class _Tables:
    """Cumulative distributions, and comoving distances to weigh pairs by."""

    z_lens: _Table
    z_source: _Table
    sigma: _Table
    source_M: _Table
    z: NDArray[np.float64]
    comoving: NDArray[np.float64]

    def theta_E(self, z_lens: float, z_source: float, sigma_v: float) -> float:
        """arcsec, to 1e-4: which of many pairs is worth the exact one."""
        near, far = np.interp([z_lens, z_source], self.z, self.comoving)
        return 4 * math.pi * (sigma_v / LIGHT) ** 2 * max(float(1 - near / far), 0.0) / ARCSEC


@lru_cache(maxsize=8)
def _tables(p: Physical) -> _Tables:
    cosmos = p.cosmology.astropy()
    z = np.linspace(0, max(p.z_lens[1], p.z_source[1]) * 1.01, 4000)
    comoving = np.asarray(cosmos.comoving_distance(z).value)
    lenses = np.linspace(*p.z_lens, 2000)
    volume = np.interp(lenses, z, comoving) ** 2 * np.asarray(cosmos.inv_efunc(lenses))
    sources = np.linspace(*p.z_source, 2000)
    sigma = np.linspace(*p.sigma_v, 2000)
    x = sigma / p.sigma_star
    M = np.linspace(*p.source_M, 2000)
    L = 10 ** (-0.4 * (M - p.source_M_star))
    return _Tables(
        _cumulative(lenses, volume),
        _cumulative(sources, sources**2 * np.exp(-((sources / p.z_source_scale) ** 1.5))),
        _cumulative(sigma, x ** (p.sigma_alpha - 1) * np.exp(-(x**p.sigma_beta))),
        _cumulative(M, L ** (p.source_alpha + 1) * np.exp(-L)),
        z,
        comoving,
    )


def _cumulative(values: NDArray[np.float64], density: NDArray[np.float64]) -> _Table:
    total = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return values, total / total[-1]


def _draw(rng: Generator, table: _Table, low: float | None = None) -> float:
    """One value, above `low`."""
    values, cumulative = table
    least = 0.0 if low is None else float(np.interp(low, values, cumulative))
    return float(np.interp(rng.uniform(least, 1), cumulative, values))
