"""A galaxy that lenses another: options, one draw, and its light before the PSF."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from pydantic import Field, model_validator
from torch import Tensor

from lenspipe.config import Config
from lenspipe.lensing import grid, light, mass
from lenspipe.sim.distances import Cosmology, Distances
from lenspipe.sim.drawing import keep_drawing
from lenspipe.sim.learners import Range, Row
from lenspipe.sim.survey import Survey

_ATTEMPTS = 2000

UNITS = {
    "z_lens": "",
    "z_source": "",
    "sigma_v": "km/s",
    "theta_E": "arcsec",
    "gamma": "",
    "e1": "",
    "e2": "",
    "center_x": "arcsec",
    "center_y": "arcsec",
    "gamma1": "",
    "gamma2": "",
    "source_magnitude": "mag",
    "source_R_sersic": "arcsec",
    "source_n_sersic": "",
    "source_e1": "",
    "source_e2": "",
    "source_center_x": "arcsec",
    "source_center_y": "arcsec",
    "lens_light_magnitude": "mag",
    "lens_light_R_sersic": "arcsec",
    "lens_light_n_sersic": "",
    "lens_light_e1": "",
    "lens_light_e2": "",
}
"""Truth of every lens."""


class GalaxyLenses(Config):
    """A galaxy and a source behind it, and which of them are kept. All of it is drawn anew for every object."""

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

    @model_validator(mode="after")
    def _possible(self) -> GalaxyLenses:
        for name in ("z_lens", "z_source", "sigma_v", "axis_ratio", "source_radius", "source_axis_ratio", "theta_E"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first")
        if self.z_lens[0] >= self.z_source[1]:
            raise ValueError("z_source lies wholly in front of z_lens")
        return self


@dataclass(frozen=True)
class Lens:
    """One lens: `truth` by the names of `UNITS`, and its distances."""

    truth: Row
    distances: Distances


def draw_lens(rng: Generator, options: GalaxyLenses) -> Lens:
    """A lens whose source is behind it and whose Einstein radius passes the cut."""

    def draw() -> tuple[float, float, float]:
        return rng.uniform(*options.z_lens), rng.uniform(*options.z_source), rng.uniform(*options.sigma_v)

    def radius(found: tuple[float, float, float]) -> float:
        return Distances.of(found[0], found[1], options.cosmology).theta_E(found[2])

    low, high = options.theta_E
    z_lens, z_source, sigma_v = keep_drawing(
        draw,
        {
            "z_source > z_lens": lambda found: found[0] < found[1],
            f"theta_E within {low} to {high} arcsec": lambda found: low <= radius(found) <= high,
        },
        _ATTEMPTS,
    )
    distances = Distances.of(z_lens, z_source, options.cosmology)
    theta_E = distances.theta_E(sigma_v)
    e1, e2 = ellipticity(rng, options.axis_ratio)
    shear, direction = rng.uniform(*options.shear), rng.uniform(0, 2 * math.pi)
    x, y = rng.normal(0, options.centre, 2)
    beta, side = theta_E * options.source_offset * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
    source_e1, source_e2 = ellipticity(rng, options.source_axis_ratio)
    truth = {
        "z_lens": z_lens,
        "z_source": z_source,
        "sigma_v": sigma_v,
        "theta_E": theta_E,
        "gamma": float(np.clip(rng.normal(*options.gamma), 1.5, 2.6)),
        "e1": e1,
        "e2": e2,
        "center_x": float(x),
        "center_y": float(y),
        "gamma1": shear * math.cos(direction),
        "gamma2": shear * math.sin(direction),
        "source_magnitude": rng.uniform(*options.source_magnitude),
        "source_R_sersic": rng.uniform(*options.source_radius),
        "source_n_sersic": rng.uniform(*options.source_n_sersic),
        "source_e1": source_e1,
        "source_e2": source_e2,
        "source_center_x": float(x) + beta * math.cos(side),
        "source_center_y": float(y) + beta * math.sin(side),
    }
    if options.lens_light:
        truth |= _light(rng, options, truth)
    return Lens(truth, distances)


def ellipticity(rng: Generator, ratio: Range) -> tuple[float, float]:
    """(e1, e2) of a uniform axis ratio q and any angle: |e| = (1 - q) / (1 + q)."""
    q, angle = rng.uniform(*ratio), rng.uniform(0, 2 * math.pi)
    modulus = (1 - q) / (1 + q)
    return modulus * math.cos(angle), modulus * math.sin(angle)


def _light(rng: Generator, options: GalaxyLenses, truth: Row) -> Row:
    """The lens galaxy: luminosity as sigma_v^4 (Faber & Jackson 1976), its ellipse near that of the mass."""
    typical, scatter = options.lens_magnitude
    far = options.cosmology.astropy().distmod(truth["z_lens"]).value - options.cosmology.astropy().distmod(0.4).value
    median, width = options.lens_radius
    e1, e2 = np.array([truth["e1"], truth["e2"]]) + rng.normal(0, 0.03, 2)
    return {
        "lens_light_magnitude": float(typical + far - 10 * math.log10(truth["sigma_v"] / 250) + rng.normal(0, scatter)),
        "lens_light_R_sersic": float(median * truth["theta_E"] * math.exp(rng.normal(0, width))),
        "lens_light_n_sersic": rng.uniform(*options.lens_n_sersic),
        "lens_light_e1": float(e1),
        "lens_light_e2": float(e2),
    }


Alpha = tuple[Tensor, Tensor]
"""Deflection in x and y on a grid of subpixels, arcsec."""


def unit_layers(lenses: Sequence[Lens], fields: Sequence[Alpha | None], survey: Survey, supersampling: int) -> Tensor:
    """Pixel values of arcs and of lens galaxies, before the PSF and in units of their fluxes without lensing.

    Parameters
    ----------
    lenses : K lenses; all shine, or none.
    fields : of each, what deflects besides the smooth lens.

    Returns
    -------
    (K, 2, H, W) f4.
    """
    n, scale = survey.n_pixels, survey.pixel_scale
    x, y = grid.axes(n, n, scale, supersampling, dtype=torch.float32)

    def stack(prefix: str, *names: str) -> list[Tensor]:
        values = [[lens.truth[prefix + name] for lens in lenses] for name in names]
        return list(torch.tensor(values, dtype=torch.float32)[:, :, None, None])

    ax, ay = mass.epl(x, y, *stack("", "theta_E", "gamma", "e1", "e2", "center_x", "center_y"))
    sx, sy = mass.shear(x, y, *stack("", "gamma1", "gamma2"))
    beta_x, beta_y = x - ax - sx, y - ay - sy
    if any(field is not None for field in fields):
        none = torch.zeros(n * supersampling, n * supersampling)
        extra = [(none, none) if field is None else field for field in fields]
        beta_x = beta_x - torch.stack([a.float() for a, _ in extra])
        beta_y = beta_y - torch.stack([a.float() for _, a in extra])
    source = stack("source_", "R_sersic", "n_sersic", "e1", "e2", "center_x", "center_y")
    arcs = light.sersic_ellipse(beta_x, beta_y, *source) / light.sersic_flux(*source[:2])
    layers = [grid.bin_mean(arcs, supersampling)]
    if "lens_light_magnitude" in lenses[0].truth:
        galaxy = stack("lens_light_", "R_sersic", "n_sersic", "e1", "e2")
        shape = light.sersic_ellipse(x, y, *galaxy, *stack("", "center_x", "center_y"))
        layers.append(grid.bin_mean(shape / light.sersic_flux(*galaxy[:2]), supersampling))
    else:
        layers.append(torch.zeros_like(layers[0]))
    return torch.stack(layers, dim=1) * scale**2
