"""One lens out of the galaxies of a piece of sky: slsim pairs them, says where the images are, and names the profiles.

As slsim's own population does it, sources lie uniformly in a disc of 1.5 times the Einstein radius that the lens would
have for a source at infinity, so a lens is taken in proportion to the area of that disc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.random import Generator

from lenspipe.sim.by_slsim.config import Slsim
from lenspipe.sim.by_slsim.galaxies import Galaxies, Sample
from lenspipe.sim.drawing import keep_drawing, numpy_seeded
from lenspipe.sim.scene import Light, Range, Scene
from lenspipe.sim.survey import Survey

_DRAWS = 20_000
"""Pairs of galaxies for one lens, at most."""
_DISC = 1.5
"""Radius of the disc over which sources lie, in Einstein radii for a source at infinity."""
_LENS_AREA = 0.01
"""Square arcsec about the cutout's centre over which lenses lie, slsim's own."""


def lens(rng: Generator, options: Slsim, galaxies: Galaxies, n_sersic: Range, survey: Survey) -> Scene:
    """One lens that the cuts keep, as `draw_pair`."""
    return draw_pair(rng, options, galaxies, n_sersic, survey).scene()


def draw_pair(rng: Generator, options: Slsim, galaxies: Galaxies, n_sersic: Range, survey: Survey) -> Pair:
    """One lens that the cuts keep; `LenspipeError` says which of them removed all where none is kept.

    `n_sersic` is that of lenses, for which slsim, like for sources, has only one value.
    """
    cuts = options.cuts
    low, high = cuts.theta_E
    near, far = cuts.image_separation
    with numpy_seeded(rng):
        return keep_drawing(
            lambda: Pair.draw(rng, options, galaxies, n_sersic, survey),
            {
                "z_source > z_lens": lambda pair: pair.z_source > pair.z_lens,
                f"cuts.theta_E within {low:g} to {high:g} arcsec": lambda pair: low <= pair.theta_E <= high,
                f"cuts.image_separation within {near:g} to {far:g} arcsec": lambda pair: pair.lensed.validity_test(
                    min_image_separation=near, max_image_separation=far
                ),
            },
            _DRAWS,
        )


@dataclass(frozen=True)
class Pair:
    """A red and a blue galaxy by their numbers; slsim sees them once they are in the right order."""

    rng: Generator
    options: Slsim
    galaxies: Galaxies
    red: int
    blue: int
    n_sersic: tuple[float, float]
    survey: Survey

    @classmethod
    def draw(cls, rng: Generator, options: Slsim, galaxies: Galaxies, n_sersic: Range, survey: Survey) -> Pair:
        red = int(np.searchsorted(galaxies.taken, rng.uniform(), side="right"))
        blue = int(rng.integers(len(galaxies.blue.z)))
        indices = rng.uniform(*n_sersic), rng.uniform(*options.source_n_sersic)
        return cls(rng, options, galaxies, min(red, len(galaxies.taken) - 1), blue, indices, survey)

    @property
    def z_lens(self) -> float:
        return float(self.galaxies.red.z[self.red])

    @property
    def z_source(self) -> float:
        return float(self.galaxies.blue.z[self.blue])

    @property
    def theta_E(self) -> float:
        """arcsec"""
        return float(self.lensed.einstein_radius[0])

    @cached_property
    def lensed(self) -> Any:
        """slsim's `Lens`."""
        from slsim.Deflectors.deflector import Deflector
        from slsim.Deflectors.DeflectorPopulation.elliptical_lens_galaxies import elliptical_projected_eccentricity
        from slsim.Lenses.lens import Lens
        from slsim.LOS.los_individual import LOSIndividual
        from slsim.Sources.source import Source
        from slsim.Sources.SourcePopulation.galaxies import galaxy_projected_eccentricity

        rng, p, cosmos = self.rng, self.options, self.options.cosmology.astropy()
        shape = elliptical_projected_eccentricity(_epsilon(p.draw_axis_ratio(rng)))
        deflector = Deflector(
            "EPL_SERSIC",
            vel_disp=self.galaxies.red.sigma_v[self.red],
            stellar_mass=self.galaxies.red.stellar_mass[self.red],
            n_sersic=self.n_sersic[0],
            **dict(zip(("e1_light", "e2_light", "e1_mass", "e2_mass"), shape)),
            **self._seen(self.galaxies.red, self.red),
        )
        deflector.update_center(deflector_area=_LENS_AREA)
        e1, e2 = galaxy_projected_eccentricity(_epsilon(rng.uniform(*p.source_axis_ratio)))
        seen = self._seen(self.galaxies.blue, self.blue)
        source = Source("single_sersic", cosmo=cosmos, n_sersic=self.n_sersic[1], e1=e1, e2=e2, **seen)
        radius = _DISC * deflector.theta_e_infinity(cosmo=cosmos)
        source.update_center(area=math.pi * radius**2, reference_position=deflector.deflector_center)
        # Convergence along the line of sight is left at 0: it could not be told from the mass.
        sight = LOSIndividual(kappa=0, gamma=rng.normal(0, p.shear, 2).tolist())
        return Lens(source_class=source, deflector_class=deflector, cosmo=cosmos, los_class=sight)

    def _seen(self, sample: Sample, row: int) -> dict[str, float]:
        """What slsim wants to know of any galaxy."""
        magnitudes = {f"mag_{name}": float(m) for name, m in zip(self.survey.names, sample.magnitude[row])}
        return {"z": float(sample.z[row]), "angular_size": float(sample.angular_size[row]), **magnitudes}

    def scene(self) -> Scene:
        """The profiles that slsim names in lenstronomy's terms; its power law of slope 2 is the SIE."""
        parts = [self.lensed.lenstronomy_kwargs(band)[1] for band in self.survey.names]
        red, blue = self.galaxies.red, self.galaxies.blue
        sie, shear = ({name: float(value) for name, value in part.items()} for part in parts[0]["kwargs_lens"][:2])
        lights = (
            _light("lens", 0, [part["kwargs_lens_light"][0] for part in parts]),
            _light("source", 1, [part["kwargs_source"][0] for part in parts]),
        )
        mass = {name: sie[name] for name in ("theta_E", "e1", "e2", "center_x", "center_y")}
        facts = {
            "z_lens": self.z_lens,
            "z_source": self.z_source,
            "sigma_v": float(red.sigma_v[self.red]),
            "lens_M_r": float(red.M[self.red]),
            "lens_radius": float(red.radius[self.red]),
            "source_M_uv": float(blue.M[self.blue]),
            "source_radius": float(blue.radius[self.blue]),
            "n_sources": 1.0,
        }
        return Scene("lens", lights, {**mass, "gamma1": shear["gamma1"], "gamma2": shear["gamma2"]}, facts=facts)


def _epsilon(q: float) -> float:
    """slsim's measure of an axis ratio."""
    return (1 - q * q) / (1 + q * q)


def _light(layer: str, plane: int, by_band: list[dict[str, Any]]) -> Light:
    """lenstronomy's Sersic ellipse, the same in all bands but for its magnitude."""
    shape = {name: float(by_band[0][ours]) for name, ours in _NAMES.items()}
    return Light(layer, np.array([float(one["magnitude"]) for one in by_band]), plane=plane, **shape)


_NAMES = {"x": "center_x", "y": "center_y", "radius": "R_sersic", "n_sersic": "n_sersic", "e1": "e1", "e2": "e2"}
