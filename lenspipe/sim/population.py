"""Draw what is on the sky of one cutout: a lens, one of five kinds of non-lens, and field objects around it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator
from pydantic import Field, field_validator, model_validator

from lenspipe.config import Config, nearest
from lenspipe.sim import nonlens
from lenspipe.sim.by_slsim.config import Slsim
from lenspipe.sim.by_slsim.galaxies import Galaxies
from lenspipe.sim.by_slsim.lens import lens as slsim_lens
from lenspipe.sim.colours import BLUE, FIELD, RED, Colours, magnitudes
from lenspipe.sim.physical import Look, Physical
from lenspipe.sim.physical import lens as physical_lens
from lenspipe.sim.scene import Light, Range, Scene, ellipticity
from lenspipe.sim.survey import Survey

KINDS = ("elliptical", "companion", "spiral", "stars", "blank", "ring", "merger", "edge_on", "artefact")
"""The non-lenses."""


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
    min_arc_pixels: int = Field(
        0, ge=0, description="pixels where arcs outshine lens and others, and 2 sigma of the sky; below: drawn again"
    )
    physical: Physical | None = Field(
        None, description="lenses and sources by redshift, velocity dispersion and luminosity; null: as said above"
    )
    slsim: Slsim | None = Field(
        None, description="lenses drawn by slsim instead (pip install 'lenspipe[slsim]'), as for LSST; null: not"
    )
    non_lens_weights: dict[str, float] = Field(
        {"elliptical": 0.3, "companion": 0.25, "spiral": 0.25, "stars": 0.1, "blank": 0.1},
        description="shares of elliptical, companion (red galaxy and blue neighbours), spiral, stars, blank, ring, "
        "merger, edge_on, artefact",
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

    @field_validator("non_lens_weights")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for kind in value:
            if kind not in KINDS:
                raise ValueError(f"there is no kind {kind!r}{nearest(kind, list(KINDS))}")
        if not value or min(value.values()) < 0 or sum(value.values()) == 0:
            raise ValueError("shares must not be negative, and one at least above 0")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Population:
        if self.physical and self.slsim:
            raise ValueError("lenses come from physical or from slsim, not from both")
        return self


def draw(
    rng: Generator, population: Population, survey: Survey, is_lens: bool, galaxies: Galaxies | None = None
) -> Scene:
    """One scene; `galaxies` are those that `population.slsim` makes lenses of."""
    weights = np.array([population.non_lens_weights.get(kind, 0.0) for kind in KINDS])
    kind = "lens" if is_lens else str(rng.choice(KINDS, p=weights / weights.sum()))
    clear = population.isolation
    if kind == "lens":
        scene = _any_lens(rng, population, survey, galaxies)
        clear = max(clear, scene.mass["theta_E"] + 0.8)
    elif kind == "stars":
        stars = tuple(_star(rng, population, survey, _place(rng, survey, 0.0)) for _ in range(rng.integers(4, 10)))
        scene, clear = Scene(kind, stars), 0.0
    elif kind == "blank":
        scene, clear = Scene(kind, ()), 0.0
    elif kind == "spiral":
        scene = Scene(kind, _spiral(rng, population, survey))
    elif kind in ("ring", "merger", "edge_on"):
        make = {"ring": nonlens.ring, "merger": nonlens.merger, "edge_on": nonlens.edge_on}[kind]
        centre = rng.normal(0, population.centre, 2)
        magnitude = rng.uniform(*population.spiral_magnitude)
        old, young = (
            magnitudes(rng, survey, magnitude, c) for c in (population.lens_colours, population.source_colours)
        )
        scene = Scene(kind, make(rng, old, young, float(centre[0]), float(centre[1])))
    else:
        scene = Scene(kind, (_elliptical(rng, population, survey, rng.uniform(0.6, 2.5)),))
        if kind == "companion":
            companions = tuple(_companion(rng, population, survey) for _ in range(rng.integers(1, 4)))
            scene = replace(scene, lights=scene.lights + companions)
        elif kind == "artefact":
            half = survey.n_pixels * survey.pixel_scale / 2
            scene = replace(scene, streaks=nonlens.streaks(rng, survey.pixel_scale, half, len(survey.bands)))
    field = tuple(
        _galaxy(rng, population, survey, _place(rng, survey, clear)) for _ in range(rng.poisson(population.galaxies))
    )
    stars = tuple(
        _star(rng, population, survey, _place(rng, survey, clear)) for _ in range(rng.poisson(population.stars))
    )
    return replace(scene, lights=scene.lights + field + stars)


def _any_lens(rng: Generator, p: Population, survey: Survey, galaxies: Galaxies | None) -> Scene:
    if p.slsim:
        assert galaxies is not None
        return slsim_lens(rng, p.slsim, galaxies, p.lens_n_sersic, survey)
    return _physical(rng, p, p.physical, survey) if p.physical else _lens(rng, p, survey)


def _physical(rng: Generator, p: Population, physical: Physical, survey: Survey) -> Scene:
    turn = np.deg2rad(rng.normal(0, p.light_angle_scatter))
    look = Look(
        centre=(float(rng.normal(0, p.centre)), float(rng.normal(0, p.centre))),
        n_sersic=rng.uniform(*p.lens_n_sersic),
        turn=float(turn),
        flatter=float(rng.normal(0, p.light_ratio_scatter)),
        source_offset=p.source_offset,
        lens_scatter=p.lens_colours.at(survey.per_band("wavelength"))[1],
        source_scatter=p.source_colours.at(survey.per_band("wavelength"))[1],
    )
    return physical_lens(rng, physical, look, survey)


def _lens(rng: Generator, p: Population, survey: Survey) -> Scene:
    theta_E = rng.uniform(*p.theta_E)
    e1, e2 = ellipticity(rng, p.axis_ratio)
    modulus = abs(np.hypot(e1, e2) + rng.normal(0, p.light_ratio_scatter))
    # An ellipse turns by half the angle of its (e1, e2).
    angle = np.arctan2(e2, e1) + 2 * np.deg2rad(rng.normal(0, p.light_angle_scatter))
    light = replace(
        _elliptical(rng, p, survey, theta_E), e1=float(modulus * np.cos(angle)), e2=float(modulus * np.sin(angle))
    )
    shear, direction = rng.uniform(*p.shear), rng.uniform(0, 2 * np.pi)
    beta, side = theta_E * p.source_offset * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    source_e1, source_e2 = ellipticity(rng, p.source_axis_ratio)
    source = Light(
        layer="source",
        magnitude=magnitudes(rng, survey, rng.uniform(*p.source_magnitude), p.source_colours),
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
    e1, e2 = ellipticity(rng, p.axis_ratio)
    magnitude = rng.normal(p.lens_magnitude - 5 * np.log10(theta_E / 1.5), p.lens_magnitude_scatter)
    return Light(
        layer="lens",
        magnitude=magnitudes(rng, survey, magnitude, p.lens_colours),
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
    e1, e2 = ellipticity(rng, (0.35, 1.0))
    x, y = rng.normal(0, p.centre, 2)
    disc = Light(
        layer="lens",
        magnitude=magnitudes(rng, survey, magnitude, p.source_colours),
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
        magnitude=magnitudes(rng, survey, magnitude + rng.uniform(0.3, 2.0), p.lens_colours),
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
    magnitude = magnitudes(rng, survey, rng.uniform(*p.companion_magnitude), p.source_colours)
    return replace(_galaxy(rng, p, survey, place), magnitude=magnitude)


def _galaxy(rng: Generator, p: Population, survey: Survey, place: tuple[float, float]) -> Light:
    low, high = (10 ** (0.35 * m) for m in p.galaxy_magnitude)
    e1, e2 = ellipticity(rng, (0.4, 1.0))
    return Light(
        layer="others",
        magnitude=magnitudes(rng, survey, np.log10(rng.uniform(low, high)) / 0.35, p.field_colours),
        x=place[0],
        y=place[1],
        radius=p.galaxy_radius * np.exp(rng.normal(0, 0.4)),
        n_sersic=rng.uniform(*p.galaxy_n_sersic),
        e1=e1,
        e2=e2,
    )


def _star(rng: Generator, p: Population, survey: Survey, place: tuple[float, float]) -> Light:
    magnitude = magnitudes(rng, survey, rng.uniform(*p.star_magnitude), p.field_colours)
    return Light(layer="others", magnitude=magnitude, x=place[0], y=place[1])


def _place(rng: Generator, survey: Survey, clear: float) -> tuple[float, float]:
    """Uniform over the cutout but for a disc of radius `clear` arcsec, which must leave some of it."""
    half = survey.n_pixels * survey.pixel_scale / 2
    clear = min(clear, half)
    while True:
        x, y = rng.uniform(-half, half, 2)
        if x * x + y * y >= clear * clear:
            return float(x), float(y)
