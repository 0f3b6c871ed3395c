"""Draw one system: galaxies, a supernova, where its images are and when each of them peaks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from lenspipe.lensing import images
from lenspipe.lensing.params import MASS
from lenspipe.sim.galaxy_lens import Lens, draw_lens
from lenspipe.sim.learners import Row
from lenspipe.sim.supernovae.config import Systems
from lenspipe.sim.supernovae.templates import TEMPLATES, Supernova, draw_supernova
from lenspipe.sim.survey import Survey

Floats = NDArray[np.float64]
_MASS = ("theta_E", "gamma", "e1", "e2", "center_x", "center_y", "gamma1", "gamma2")


@dataclass(frozen=True)
class Images:
    """I images of a point: place in arcsec, signed magnification, days after the first one."""

    x: Floats
    y: Floats
    magnification: Floats
    delay: Floats


NOTHING = Images(*(np.empty(0) for _ in range(4)))


@dataclass(frozen=True)
class System:
    """What is on the sky.

    Attributes
    ----------
    lens : for rendering; of a galaxy that lenses nothing theta_E and shear are 0.
    magnitudes : (2, B) AB, of source and central galaxy without lensing; infinite where there is none.
    supernova, images, peak : None and nothing where there is none; days from the first step to the first image's peak.
    about : truth of the supernova.
    """

    lens: Lens
    lenses: bool
    magnitudes: Floats
    supernova: Supernova | None = None
    images: Images = NOTHING
    peak: float = math.nan
    about: Row = field(default_factory=dict)

    def truth(self, bands: tuple[str, ...]) -> Row:
        """Everything that was drawn, without what has no meaning for this system."""
        has_source = bool(np.isfinite(self.magnitudes[0]).all())
        kept = {
            name: value
            for name, value in self.lens.truth.items()
            if (self.lenses or name not in (*_MASS, "z_source")) and (has_source or not name.startswith("source_"))
        }
        by_band = {
            f"{role}_magnitude_{band}": float(value)
            for role, row in zip(("source", "lens_light"), self.magnitudes)
            for band, value in zip(bands, row)
            if np.isfinite(value)
        }
        return {**kept, **by_band, **self.about}

    def light_curves(self, days: Floats, survey: Survey) -> list[Floats]:
        """Of each image, (T, B) flux units at `days` (T, B) after the first step."""
        if self.supernova is None:
            return []
        curves = []
        for magnification, delay in zip(self.images.magnification, self.images.delay):
            since = days - self.peak - delay
            wavelengths = survey.per_band("wavelength")
            magnitude = np.stack([self.supernova.magnitude(since[:, b], w) for b, w in enumerate(wavelengths)], axis=1)
            curves.append(abs(magnification) * survey.flux(magnitude))
        return curves


def draw_system(rng: Generator, kind: str, options: Systems, survey: Survey) -> System:
    """One system of class `kind`, of `lenspipe.sim.supernovae.config.CLASSES`."""
    lens = draw_lens(rng, options)
    magnitudes = _magnitudes(rng, lens, options, survey)
    if kind == "no_lens":
        return _galaxy(rng, lens, magnitudes, options)
    system = System(lens, True, magnitudes)
    if kind == "lens":
        return system
    return _with_supernova(rng, system, "Ia" if kind == "lensed_sn_ia" else "CC", options)


def find_images(lens: Lens, beta_x: float, beta_y: float) -> Images:
    """Images of a point of the source plane, the first to arrive first."""
    truth = lens.truth
    names = {"EPL": MASS["EPL"], "SHEAR": MASS["SHEAR"]}
    parts = [(p, [torch.tensor(truth[n], dtype=torch.float64) for n in each]) for p, each in names.items()]
    deflect = images.deflection(parts)
    x, y = images.solve(deflect, beta_x, beta_y, 3.0 * truth["theta_E"])
    beta = (torch.tensor(b, dtype=torch.float64) for b in (beta_x, beta_y))
    fermat = images.fermat_potential(parts, x, y, *beta)
    order = torch.argsort(fermat)
    days = lens.distances.delay_days * (fermat[order] - fermat.min()) if len(x) else fermat
    found = (x[order], y[order], images.magnification(deflect, x, y)[order], days)
    return Images(*(part.numpy() for part in found))


def _magnitudes(rng: Generator, lens: Lens, options: Systems, survey: Survey) -> Floats:
    wavelength = survey.per_band("wavelength")
    rows = []
    for role, colours in (("source", options.source_colours), ("lens_light", options.lens_colours)):
        offset, scatter = colours.at(wavelength)
        rows.append(lens.truth[f"{role}_magnitude"] + offset + scatter * rng.normal(size=len(wavelength)))
    return np.stack(rows)


def _with_supernova(rng: Generator, system: System, kind: str, options: Systems) -> System:
    """A supernova in the source, near its centre."""
    truth = system.lens.truth
    width = options.sn_offset * truth["source_R_sersic"]
    x, y = (truth[f"source_center_{axis}"] + rng.normal(0, width) for axis in "xy")
    modulus = options.cosmology.astropy().distmod(truth["z_source"]).value
    supernova = draw_supernova(rng, kind, truth["z_source"], modulus)
    return _complete(rng, system, supernova, x, y, find_images(system.lens, x, y), options)


def _galaxy(rng: Generator, lens: Lens, magnitudes: Floats, options: Systems) -> System:
    """A galaxy that lenses nothing, with or without a companion, with or without a supernova of its own."""
    truth = {**lens.truth, "theta_E": 0.0, "gamma1": 0.0, "gamma2": 0.0}
    distance, side = rng.uniform(*options.companion_distance), rng.uniform(0, 2 * math.pi)
    truth["source_center_x"] = truth["center_x"] + distance * math.cos(side)
    truth["source_center_y"] = truth["center_y"] + distance * math.sin(side)
    brighter = rng.uniform(*options.companion_magnitude) - truth["source_magnitude"]
    truth["source_magnitude"] += brighter
    has_companion = rng.uniform() < options.companions
    magnitudes = np.stack([magnitudes[0] + (brighter if has_companion else math.inf), magnitudes[1]])
    system = System(replace(lens, truth=truth), False, magnitudes)
    if rng.uniform() >= options.unlensed_supernovae:
        return system
    width = options.sn_offset * truth["lens_light_R_sersic"]
    x, y = (truth[f"center_{axis}"] + rng.normal(0, width) for axis in "xy")
    modulus = options.cosmology.astropy().distmod(truth["z_lens"]).value
    # Old galaxies have few massive stars left.
    supernova = draw_supernova(rng, "Ia" if rng.uniform() < 0.7 else "CC", truth["z_lens"], modulus)
    one = Images(np.array([x]), np.array([y]), np.ones(1), np.zeros(1))
    return _complete(rng, system, supernova, x, y, one, options)


def _complete(
    rng: Generator, system: System, supernova: Supernova, x: float, y: float, found: Images, options: Systems
) -> System:
    peak = rng.uniform(*options.sn_peak)
    about = {
        "sn_template": float(TEMPLATES.index(supernova.template)),
        "sn_redshift": supernova.redshift,
        "sn_absolute_magnitude": supernova.absolute,
        "sn_stretch": supernova.stretch,
        "sn_reddening": supernova.reddening,
        "sn_x": x,
        "sn_y": y,
        "sn_peak": peak,
        "n_images": float(len(found.x)),
        "sn_magnification": float(np.abs(found.magnification).sum()),
        "longest_delay": float(found.delay.max()) if len(found.x) else 0.0,
    }
    return replace(system, supernova=supernova, images=found, peak=peak, about=about)
