"""Whole samples: lens, substructure by class, image, noise. Each object depends on its own seed alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenspipe.errors import LenspipeError
from lenspipe.lensing import grid
from lenspipe.lensing.substructure import string
from lenspipe.sim.blur import blur_for, draw_conditions
from lenspipe.sim.distances import LIGHT
from lenspipe.sim.galaxy_lens import UNITS as LENS_UNITS
from lenspipe.sim.galaxy_lens import Alpha, Lens, draw_lens, unit_layers
from lenspipe.sim.learners import Row, add_noise, class_of, columns, log_uniform
from lenspipe.sim.substructure.by_pyhalo import draw_by_pyhalo
from lenspipe.sim.substructure.config import Lenses, Vortex
from lenspipe.sim.substructure.deflect import deflection
from lenspipe.sim.substructure.haloes import Haloes, draw_haloes
from lenspipe.sim.survey import Survey
from lenspipe.types import Samples

UNITS = {
    **LENS_UNITS,
    "arc_snr": "",
    "psf_fwhm": "arcsec",
    "sky_rms": "flux",
    "sigma_sub": "kpc-2",
    "log10_host_mass": "dex(solMass)",
    "n_subhaloes": "",
    "subhalo_mass": "solMass",
    "subhalo_kappa": "",
    "axion_mass": "eV",
    "vortex_mass": "solMass",
    "vortex_half_length": "arcsec",
    "vortex_phi": "deg",
    "vortex_center_x": "arcsec",
    "vortex_center_y": "arcsec",
}
MEMBERS = {
    "row": "",
    "x": "arcsec",
    "y": "arcsec",
    "infall_mass": "solMass",
    "mass": "solMass",
    "Rs": "arcsec",
    "alpha_Rs": "arcsec",
    "r_trunc": "arcsec",
}
"""Columns of the list of subhaloes."""
_ATTEMPTS = 200
_BATCH = 16
"""Objects rendered at once: bounds the memory."""
_PLANCK_EV_KPC = 1.23984198e-6 / 3.0856776e19
"""h c in eV kpc."""


def simulate(
    ids: Sequence[str],
    seeds: Sequence[int],
    numbers: Sequence[int],
    classes: Sequence[str],
    options: Lenses,
    survey: Survey,
    supersampling: int,
) -> Samples:
    """One object per seed, in the survey's one band.

    Parameters
    ----------
    numbers : of each object in the whole set; its class follows from it.
    classes : of `lenspipe.sim.substructure.config.CLASSES`.
    supersampling : subpixels on a pixel's side.
    """
    if len(survey.bands) != 1:
        raise LenspipeError(f"substructure: one band is rendered, not {len(survey.bands)}; name one.")
    label = np.array([class_of(number, classes) for number in numbers], dtype=np.uint8)
    lenses, rngs, conditions, snr = _choose(seeds, options, survey)
    rows: list[Row] = []
    fields: list[Alpha | None] = []
    members: list[NDArray[np.float64]] = []
    for row, (lens, rng) in enumerate(zip(lenses, rngs)):
        truth, field, haloes = _substructure(rng, classes[label[row]], lens, options, survey, supersampling)
        fwhm, sky = conditions[row]
        about = {"arc_snr": snr[row], "psf_fwhm": float(fwhm[0]), "sky_rms": float(sky[0])}
        rows.append({**lens.truth, **about, **truth})
        fields.append(field)
        if haloes is not None:
            table = [np.full(len(haloes.x), row), *(getattr(haloes, name) for name in list(MEMBERS)[1:])]
            members.append(np.stack(table, axis=1))
    images: list[Tensor] = []
    for start in range(0, len(lenses), _BATCH):
        some = slice(start, start + _BATCH)
        layers = unit_layers(lenses[some], fields[some], survey, supersampling)
        models = (_fluxes(lenses[some], survey) * layers).sum(1)
        images.extend(blur_for(survey, fwhm).each(model[None]) for model, (fwhm, _) in zip(models, conditions[some]))
    image = np.stack(
        [
            add_noise(rng, model.numpy(), sky, survey.effective_gain())
            for rng, model, (_, sky) in zip(rngs, images, conditions)
        ]
    )
    listed = np.concatenate(members) if members else np.empty((0, len(MEMBERS)))
    return Samples(
        id=tuple(ids),
        classes=tuple(classes),
        label=label,
        bands=tuple(band.name for band in survey.bands),
        image=image,
        unit=f"flux, AB zero point {survey.zero_point:g}",
        pixel_scale=survey.pixel_scale,
        truth=columns(rows, UNITS),
        units={**UNITS, **MEMBERS},
        members=dict(zip(MEMBERS, listed.T)),
    )


def _choose(
    seeds: Sequence[int], options: Lenses, survey: Survey
) -> tuple[list[Lens], list[np.random.Generator], list[tuple[NDArray[np.float64], NDArray[np.float64]]], list[float]]:
    """Lenses whose arcs, without substructure, are bright enough; with each one's random numbers, conditions, S/N."""
    n = len(seeds)
    lenses: list[Lens] = [Lens({}, None)] * n  # type: ignore[arg-type]
    rngs = [np.random.default_rng([seed, 0]) for seed in seeds]
    conditions = [(np.empty(0), np.empty(0))] * n
    snr = [0.0] * n
    todo = list(range(n))
    for attempt in range(_ATTEMPTS):
        for row in todo:
            rngs[row] = np.random.default_rng([seeds[row], attempt])
            lenses[row] = draw_lens(rngs[row], options)
            conditions[row] = draw_conditions(rngs[row], survey)
        for start in range(0, len(todo), _BATCH):
            some = todo[start : start + _BATCH]
            drawn = [lenses[row] for row in some]
            arcs = (_fluxes(drawn, survey) * unit_layers(drawn, [None] * len(some), survey, 1))[:, 0]
            for row, image in zip(some, arcs):
                snr[row] = float((image.double() / conditions[row][1][0]).square().sum().sqrt())
        todo = [row for row in todo if snr[row] < options.min_arc_snr]
        if not todo:
            return lenses, rngs, conditions, snr
    raise LenspipeError(
        f"substructure: {len(todo)} of {n} objects had no arcs with S/N > {options.min_arc_snr} (min_arc_snr) in "
        f"{_ATTEMPTS} draws; lower it or brighten the sources."
    )


def _substructure(
    rng: np.random.Generator, kind: str, lens: Lens, options: Lenses, survey: Survey, supersampling: int
) -> tuple[Row, Alpha | None, Haloes | None]:
    """Truth, deflection on the subpixel grid, and haloes of what `kind` puts into `lens`."""
    n, step = survey.n_pixels * supersampling, survey.pixel_scale / supersampling
    if kind == "cdm":
        half = survey.n_pixels * survey.pixel_scale / 2
        draw = draw_by_pyhalo if options.subhaloes.population == "pyhalo" else draw_haloes
        haloes = draw(rng, options.subhaloes, lens.distances, options.cosmology, half)
        truth = {
            "sigma_sub": haloes.sigma_sub,
            "log10_host_mass": haloes.log10_host_mass,
            "n_subhaloes": float(len(haloes.x)),
            "subhalo_mass": float(haloes.mass.sum()),
            "subhalo_kappa": haloes.kappa,
        }
        return truth, deflection(haloes, n, step), haloes
    if kind == "vortex":
        truth = _vortex(rng, options.vortex, lens)
        x, y = grid.axes(n, n, step)
        names = ("vortex_half_length", "vortex_phi", "vortex_center_x", "vortex_center_y")
        half_length, phi, cx, cy = (torch.tensor(truth[name], dtype=torch.float64) for name in names)
        theta_E = torch.tensor(lens.distances.point_theta_E(truth["vortex_mass"]), dtype=torch.float64)
        return truth, string(x, y, theta_E, half_length, torch.deg2rad(phi), cx, cy), None
    return {}, None, None


def _vortex(rng: np.random.Generator, options: Vortex, lens: Lens) -> Row:
    distances, theta_E = lens.distances, lens.truth["theta_E"]
    axion_mass = log_uniform(rng, options.axion_mass)
    wavelength = _PLANCK_EV_KPC / axion_mass * LIGHT / lens.truth["sigma_v"]  # kpc
    inside = math.pi * (theta_E * distances.kpc_per_arcsec) ** 2 * distances.sigma_critical
    place, side = theta_E * options.offset * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
    return {
        "axion_mass": axion_mass,
        "vortex_mass": log_uniform(rng, options.mass_fraction) * inside,
        "vortex_half_length": wavelength / distances.kpc_per_arcsec / 2,
        "vortex_phi": rng.uniform(0, 180),
        "vortex_center_x": lens.truth["center_x"] + place * math.cos(side),
        "vortex_center_y": lens.truth["center_y"] + place * math.sin(side),
    }


def _fluxes(lenses: Sequence[Lens], survey: Survey) -> Tensor:
    """(K, 2, 1, 1) f4 flux of source and lens galaxy, 0 where there is none."""
    names = ("source_magnitude", "lens_light_magnitude")
    magnitudes = np.array([[lens.truth.get(name, np.inf) for name in names] for lens in lenses])
    return torch.as_tensor(survey.flux(magnitudes), dtype=torch.float32)[:, :, None, None]
