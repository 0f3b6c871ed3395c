"""Draw one lens with its source; substructure comes later, so that no cut can depend on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from lenspipe.sim.distances import Distances
from lenspipe.sim.learners import Range, Row, keep_drawing
from lenspipe.sim.substructure.config import Lenses

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


@dataclass(frozen=True)
class Lens:
    """One lens: `truth` by the names of `UNITS`, and its distances."""

    truth: Row
    distances: Distances


def draw_lens(rng: Generator, options: Lenses) -> Lens:
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


def _light(rng: Generator, options: Lenses, truth: Row) -> Row:
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
