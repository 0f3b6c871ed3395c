"""Draw what is on the sky of one cutout: a lens, one of five kinds of non-lens, and field objects around it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lenspipe.config import Config
from lenspipe.sim.survey import Survey

LAYERS = ("source", "lens", "others")
"""``lens`` is the galaxy at the centre, also where it lenses nothing; ``others`` is everything unrelated."""
KINDS = ("elliptical", "companion", "spiral", "stars", "blank")
"""The non-lenses."""
Range = tuple[float, float]
"""Uniform between two ends."""


class Colours(Config):
    """AB magnitudes of a kind of object relative to its reference magnitude; between the nodes, and flat beyond them,
    they are interpolated in wavelength."""

    wavelength: tuple[float, ...] = Field(
        (), description="nm, rising; empty: one number for each of the survey's bands"
    )
    offset: tuple[float, ...] = Field(description="mag")
    scatter: tuple[float, ...] = Field(description="mag, Gaussian")

    @model_validator(mode="after")
    def _consistent(self) -> Colours:
        nodes = len(self.wavelength or self.offset)
        if not len(self.offset) == len(self.scatter) == nodes:
            raise ValueError("wavelength, offset and scatter must be as many")
        if any(b <= a for a, b in zip(self.wavelength, self.wavelength[1:])):
            raise ValueError("wavelength must rise")
        return self

    def at(self, wavelength: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(B,) offset and scatter; ValueError where nodes and bands are not as many and no wavelengths are given."""
        if self.wavelength:
            offset, scatter = (np.interp(wavelength, self.wavelength, node) for node in (self.offset, self.scatter))
            return np.asarray(offset), np.asarray(scatter)
        if len(self.offset) != len(wavelength):
            raise ValueError("must have one number for each of the survey's bands, or wavelengths")
        return np.array(self.offset), np.array(self.scatter)


# At 481, 642 and 781 nm, the g, r and i of DECam, and beyond them what passively evolving and star-forming galaxies
# of redshift 0.5 and 1.5 have, roughly.
_NODES = (367.0, 481.0, 642.0, 781.0, 917.0, 1085.0, 1375.0, 1773.0, 2762.0, 4421.0)
RED = Colours(
    wavelength=_NODES,
    offset=(2.9, 1.55, 0.0, -0.62, -0.95, -1.2, -1.5, -1.8, -1.7, -1.2),
    scatter=(0.2, 0.12, 0.0, 0.06, 0.07, 0.08, 0.1, 0.1, 0.12, 0.15),
)
BLUE = Colours(
    wavelength=_NODES,
    offset=(0.5, 0.25, 0.0, -0.12, -0.3, -0.55, -0.75, -0.9, -1.0, -0.9),
    scatter=(0.2, 0.15, 0.0, 0.10, 0.12, 0.15, 0.2, 0.2, 0.25, 0.3),
)
FIELD = Colours(
    wavelength=_NODES,
    offset=(1.3, 0.7, 0.0, -0.35, -0.55, -0.75, -1.0, -1.2, -1.2, -1.0),
    scatter=(0.5, 0.4, 0.0, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
)


class Population(Config):
    """Every number of the population. Reference magnitudes are those at the wavelength of colour 0 (DECam's r)."""

    theta_E: Range = Field((0.9, 2.5), description="arcsec, uniform")
    axis_ratio: Range = Field((0.6, 0.98), description="of mass, and of central galaxies without a lens, uniform")
    light_ratio_scatter: float = Field(0.03, description="scatter of the light's |e| about that of the mass")
    light_angle_scatter: float = Field(8.0, description="degrees between light and mass, Gaussian")
    shear: Range = Field((0.0, 0.06), description="modulus, uniform; any direction")
    centre: float = Field(0.08, description="arcsec, scatter of the central galaxy about the cutout's centre, per axis")
    source_offset: float = Field(0.45, description="in theta_E: the source lies uniformly in a disc of this radius")
    lens_magnitude: float = Field(19.3, description="mag of a lens of theta_E 1.5 arcsec; its flux goes as theta_E^2")
    lens_magnitude_scatter: float = Field(0.35, description="mag, Gaussian")
    lens_radius: float = Field(1.0, description="arcsec, half-light radius at theta_E 1.5 arcsec, goes as theta_E")
    lens_radius_scatter: float = Field(0.15, description="natural log, Gaussian")
    lens_n_sersic: Range = Field((2.5, 4.5), description="uniform")
    lens_colours: Colours = RED
    source_magnitude: Range = Field((22.3, 23.9), description="mag before lensing, uniform")
    source_radius: Range = Field((0.15, 0.45), description="arcsec, uniform")
    source_n_sersic: Range = Field((0.8, 2.0), description="uniform")
    source_axis_ratio: Range = Field((0.55, 1.0), description="uniform")
    source_colours: Colours = BLUE
    min_magnification: float = Field(3.0, description="lenses below it are drawn again")
    min_arc_snr: float = Field(40.0, description="S/N of the arcs, all bands and pixels; lenses below are drawn again")
    non_lens_weights: tuple[float, float, float, float, float] = Field(
        (0.3, 0.25, 0.25, 0.1, 0.1), description="of elliptical, companion, spiral, stars, blank"
    )
    companion_distance: Range = Field((1.0, 3.0), description="arcsec from the red galaxy, uniform")
    companion_magnitude: Range = Field((20.5, 23.0), description="mag, uniform")
    spiral_magnitude: Range = Field((18.3, 20.5), description="mag, uniform")
    spiral_radius: Range = Field((1.0, 2.2), description="arcsec, half-light radius of the disc, uniform")
    galaxies: float = Field(1.2, description="mean number of field galaxies in a cutout, Poisson")
    galaxy_magnitude: Range = Field((19.5, 24.0), description="mag; numbers grow as 10^(0.35 mag)")
    galaxy_radius: float = Field(0.4, description="arcsec, median half-light radius; scatter 0.4 in natural log")
    galaxy_n_sersic: Range = Field((0.7, 3.0), description="uniform")
    field_colours: Colours = FIELD
    stars: float = Field(0.3, description="mean number of stars in a cutout, Poisson")
    star_magnitude: Range = Field((18.0, 23.0), description="mag, uniform")
    isolation: float = Field(2.6, description="arcsec around the centre (and 0.8 beyond theta_E) without field objects")


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
class Scene:
    """All light of a cutout, and the deflectors' parameters.

    Attributes
    ----------
    mass : of the lens; empty where nothing lenses. theta_E is that of the first source.
    behind : of the first source as a lens, seen from the second: theta_E, e1, e2, center_x, center_y; and ``scale``,
        how much more the lens bends the light of the second. Empty without a second source plane.
    """

    kind: str
    lights: tuple[Light, ...]
    mass: dict[str, float] = field(default_factory=dict)
    behind: dict[str, float] = field(default_factory=dict)

    @property
    def is_lens(self) -> bool:
        return self.kind == "lens"

    def truth(self) -> dict[str, float]:
        """Model parameters by lenspipe's names; empty for a non-lens."""
        if not self.is_lens:
            return {}
        lens, source = self.lights[0], self.lights[1]
        centre = {"source_center_x": source.x, "source_center_y": source.y}
        return {**self.mass, **_shape("lens_light", lens), **_shape("source", source), **centre}


def _shape(prefix: str, light: Light) -> dict[str, float]:
    values = {"R_sersic": light.radius, "n_sersic": light.n_sersic, "e1": light.e1, "e2": light.e2}
    return {f"{prefix}_{name}": value for name, value in values.items()}


def draw(rng: Generator, population: Population, survey: Survey, is_lens: bool) -> Scene:
    """One scene."""
    weights = np.array(population.non_lens_weights)
    kind = "lens" if is_lens else str(rng.choice(KINDS, p=weights / weights.sum()))
    clear = population.isolation
    if kind == "lens":
        scene = _lens(rng, population, survey)
        clear = max(clear, scene.mass["theta_E"] + 0.8)
    elif kind == "stars":
        stars = tuple(_star(rng, population, survey, _place(rng, survey, 0.0)) for _ in range(rng.integers(4, 10)))
        scene, clear = Scene(kind, stars), 0.0
    elif kind == "blank":
        scene, clear = Scene(kind, ()), 0.0
    elif kind == "spiral":
        scene = Scene(kind, _spiral(rng, population, survey))
    else:
        scene = Scene(kind, (_elliptical(rng, population, survey, rng.uniform(0.6, 2.5)),))
        if kind == "companion":
            companions = tuple(_companion(rng, population, survey) for _ in range(rng.integers(1, 4)))
            scene = replace(scene, lights=scene.lights + companions)
    galaxies = tuple(
        _galaxy(rng, population, survey, _place(rng, survey, clear)) for _ in range(rng.poisson(population.galaxies))
    )
    stars = tuple(
        _star(rng, population, survey, _place(rng, survey, clear)) for _ in range(rng.poisson(population.stars))
    )
    return replace(scene, lights=scene.lights + galaxies + stars)


def _lens(rng: Generator, p: Population, survey: Survey) -> Scene:
    theta_E = rng.uniform(*p.theta_E)
    e1, e2 = _ellipticity(rng, p.axis_ratio)
    modulus = abs(np.hypot(e1, e2) + rng.normal(0, p.light_ratio_scatter))
    # An ellipse turns by half the angle of its (e1, e2).
    angle = np.arctan2(e2, e1) + 2 * np.deg2rad(rng.normal(0, p.light_angle_scatter))
    light = replace(
        _elliptical(rng, p, survey, theta_E), e1=float(modulus * np.cos(angle)), e2=float(modulus * np.sin(angle))
    )
    shear, direction = rng.uniform(*p.shear), rng.uniform(0, 2 * np.pi)
    beta, side = theta_E * p.source_offset * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    source_e1, source_e2 = _ellipticity(rng, p.source_axis_ratio)
    source = Light(
        layer="source",
        magnitude=_magnitude(rng, survey, rng.uniform(*p.source_magnitude), p.source_colours),
        x=light.x + beta * np.cos(side),
        y=light.y + beta * np.sin(side),
        radius=rng.uniform(*p.source_radius),
        n_sersic=rng.uniform(*p.source_n_sersic),
        e1=source_e1,
        e2=source_e2,
        plane=1,
    )
    mass = {
        "theta_E": theta_E,
        "e1": e1,
        "e2": e2,
        "center_x": light.x,
        "center_y": light.y,
        "gamma1": shear * np.cos(direction),
        "gamma2": shear * np.sin(direction),
    }
    return Scene("lens", (light, source), mass)


def _elliptical(rng: Generator, p: Population, survey: Survey, theta_E: float) -> Light:
    """A red galaxy as massive as a lens of `theta_E`: flux goes with the velocity dispersion's 4th power."""
    e1, e2 = _ellipticity(rng, p.axis_ratio)
    magnitude = rng.normal(p.lens_magnitude - 5 * np.log10(theta_E / 1.5), p.lens_magnitude_scatter)
    return Light(
        layer="lens",
        magnitude=_magnitude(rng, survey, magnitude, p.lens_colours),
        x=rng.normal(0, p.centre),
        y=rng.normal(0, p.centre),
        radius=p.lens_radius * theta_E / 1.5 * np.exp(rng.normal(0, p.lens_radius_scatter)),
        n_sersic=rng.uniform(*p.lens_n_sersic),
        e1=e1,
        e2=e2,
    )


def _spiral(rng: Generator, p: Population, survey: Survey) -> tuple[Light, ...]:
    """A blue disc with two logarithmic arms about a small red bulge, all of it the central galaxy."""
    magnitude, radius = rng.uniform(*p.spiral_magnitude), rng.uniform(*p.spiral_radius)
    e1, e2 = _ellipticity(rng, (0.35, 1.0))
    x, y = rng.normal(0, p.centre, 2)
    disc = Light(
        layer="lens",
        magnitude=_magnitude(rng, survey, magnitude, p.source_colours),
        x=x,
        y=y,
        radius=radius,
        e1=e1,
        e2=e2,
        arms=rng.uniform(0.3, 0.9),
        pitch=rng.uniform(0.25, 0.6),
        phase=rng.uniform(0, 2 * np.pi),
    )
    bulge = Light(
        layer="lens",
        magnitude=_magnitude(rng, survey, magnitude + rng.uniform(0.3, 2.0), p.lens_colours),
        x=x,
        y=y,
        radius=radius * rng.uniform(0.15, 0.35),
        n_sersic=2.0,
        e1=0.3 * e1,
        e2=0.3 * e2,
    )
    return disc, bulge


def _companion(rng: Generator, p: Population, survey: Survey) -> Light:
    distance, angle = rng.uniform(*p.companion_distance), rng.uniform(0, 2 * np.pi)
    place = (distance * np.cos(angle), distance * np.sin(angle))
    magnitude = _magnitude(rng, survey, rng.uniform(*p.companion_magnitude), p.source_colours)
    return replace(_galaxy(rng, p, survey, place), magnitude=magnitude)


def _galaxy(rng: Generator, p: Population, survey: Survey, place: tuple[float, float]) -> Light:
    low, high = (10 ** (0.35 * m) for m in p.galaxy_magnitude)
    e1, e2 = _ellipticity(rng, (0.4, 1.0))
    return Light(
        layer="others",
        magnitude=_magnitude(rng, survey, np.log10(rng.uniform(low, high)) / 0.35, p.field_colours),
        x=place[0],
        y=place[1],
        radius=p.galaxy_radius * np.exp(rng.normal(0, 0.4)),
        n_sersic=rng.uniform(*p.galaxy_n_sersic),
        e1=e1,
        e2=e2,
    )


def _star(rng: Generator, p: Population, survey: Survey, place: tuple[float, float]) -> Light:
    magnitude = _magnitude(rng, survey, rng.uniform(*p.star_magnitude), p.field_colours)
    return Light(layer="others", magnitude=magnitude, x=place[0], y=place[1])


def _place(rng: Generator, survey: Survey, clear: float) -> tuple[float, float]:
    """Uniform over the cutout but for a disc of radius `clear` arcsec, which must leave some of it."""
    half = survey.n_pixels * survey.pixel_scale / 2
    clear = min(clear, half)
    while True:
        x, y = rng.uniform(-half, half, 2)
        if x * x + y * y >= clear * clear:
            return float(x), float(y)


def _ellipticity(rng: Generator, ratio: Range) -> tuple[float, float]:
    """(e1, e2) of a uniform axis ratio and a uniform angle: |e| = (1 - q) / (1 + q)."""
    q, angle = rng.uniform(*ratio), rng.uniform(0, 2 * np.pi)
    modulus = (1 - q) / (1 + q)
    return float(modulus * np.cos(angle)), float(modulus * np.sin(angle))


def _magnitude(rng: Generator, survey: Survey, reference: float, colours: Colours) -> NDArray[np.float64]:
    return reference + rng.normal(*colours.at(survey.per_band("wavelength")))
