"""Whole samples: every step of the survey as an image, their mean, and light curves from the same noisy pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from lenspipe.errors import LenspipeError
from lenspipe.sim.blur import blur_for, point_images
from lenspipe.sim.galaxy_lens import UNITS as LENS_UNITS
from lenspipe.sim.galaxy_lens import unit_layers
from lenspipe.sim.learners import Row, add_noise, class_of, columns
from lenspipe.sim.supernovae.config import Monitoring, Systems
from lenspipe.sim.supernovae.draw import System, draw_system
from lenspipe.sim.survey import Survey
from lenspipe.types import Samples

Floats = NDArray[np.float64]
UNITS = {
    **LENS_UNITS,
    "arc_snr": "",
    "n_detections": "",
    "sn_template": "",
    "sn_redshift": "",
    "sn_absolute_magnitude": "mag",
    "sn_stretch": "",
    "sn_reddening": "mag",
    "sn_x": "arcsec",
    "sn_y": "arcsec",
    "sn_peak": "day",
    "sn_magnification": "",
    "n_images": "",
    "longest_delay": "day",
}
MEMBERS = {"row": "", "x": "arcsec", "y": "arcsec", "magnification": "", "delay": "day"}
"""Columns of the list of supernova images."""
SERIES = ("time", "flux", "flux_sigma", "supernova_flux", "psf_fwhm")
"""``flux``: what the aperture holds, less what a noiseless image of the same seeing without the supernova holds there
(difference imaging at its best); ``supernova_flux``: the same without the step's noise; ``psf_fwhm``: the seeing."""
_ATTEMPTS = 500
_DETECTION = 5.0
"""S/N of a supernova in one point of a light curve that counts."""


@dataclass(frozen=True)
class _Watched:
    """One system and the T steps at which it was looked at, without noise.

    Attributes
    ----------
    days, fwhm, sky_rms : (T, B) days, arcsec, flux units.
    steady, varying : (T, B, H, W) flux per pixel of the galaxies and of the supernova.
    arc_snr : of the arcs in all steps and bands together.
    """

    system: System
    days: Floats
    fwhm: Floats
    sky_rms: Floats
    steady: Floats
    varying: Floats
    arc_snr: float
    n_detections: int


def simulate(
    ids: Sequence[str],
    seeds: Sequence[int],
    numbers: Sequence[int],
    classes: Sequence[str],
    options: Systems,
    monitoring: Monitoring,
    survey: Survey,
    supersampling: int,
) -> Samples:
    """One object per seed.

    Parameters
    ----------
    numbers : of each object in the whole set; its class follows from it.
    classes : of `lenspipe.sim.supernovae.config.CLASSES`.
    survey : its numbers of exposures are replaced by those of a step.
    """
    step = one_step(survey, monitoring)
    inside = aperture(survey, monitoring.aperture)
    label = np.array([class_of(number, classes) for number in numbers], dtype=np.uint8)
    gain = step.effective_gain()
    rows: list[Row] = []
    members, images = [], []
    series: dict[str, list[Floats]] = {name: [] for name in SERIES}
    for row, (seed, index) in enumerate(zip(seeds, label)):
        rng, seen = _choose(seed, classes[index], options, monitoring, step, supersampling, inside)
        model = seen.steady + seen.varying
        epochs = add_noise(rng, model, seen.sky_rms, np.broadcast_to(gain, seen.sky_rms.shape))
        images.append(epochs.mean(0, dtype=np.float64))
        series["time"].append(seen.days)
        series["flux"].append((epochs - seen.steady)[..., inside].sum(-1))
        series["flux_sigma"].append(_aperture_sigma(model, seen.sky_rms, gain, inside))
        series["supernova_flux"].append(seen.varying[..., inside].sum(-1))
        series["psf_fwhm"].append(seen.fwhm)
        found = {"arc_snr": seen.arc_snr} if seen.system.lenses else {}
        if seen.system.supernova is not None:
            found["n_detections"] = float(seen.n_detections)
        rows.append({**seen.system.truth(survey.names), **found})
        at = seen.system.images
        members.append(np.stack([np.full(len(at.x), row), at.x, at.y, at.magnification, at.delay], axis=1))
    by_band = {f"{role}_magnitude_{band}": "mag" for role in ("source", "lens_light") for band in survey.names}
    flux = f"flux, AB zero point {survey.zero_point:g}"
    units = {"time": "day", "flux": flux, "flux_sigma": flux, "supernova_flux": flux, "psf_fwhm": "arcsec"}
    return Samples(
        id=tuple(ids),
        classes=tuple(classes),
        label=label,
        bands=survey.names,
        image=np.stack(images).astype(np.float32),
        unit=flux,
        pixel_scale=survey.pixel_scale,
        truth=columns(rows, {**UNITS, **by_band}),
        units={**UNITS, **by_band, **MEMBERS, **units},
        series={name: np.stack(values).astype(np.float32) for name, values in series.items()},
        members=dict(zip(MEMBERS, np.concatenate(members).T)),
    )


def one_step(survey: Survey, monitoring: Monitoring) -> Survey:
    """`survey` with the exposures of one step."""
    bands = [b.model_copy(update={"n_exposures": monitoring.exposures.get(b.name, 1)}) for b in survey.bands]
    return survey.model_copy(update={"bands": tuple(bands)})


def aperture(survey: Survey, radius: float) -> NDArray[np.bool_]:
    """(H, W) pixels whose centres lie within `radius` arcsec of the cutout's centre."""
    axis = (np.arange(survey.n_pixels) - (survey.n_pixels - 1) / 2) * survey.pixel_scale
    return np.asarray(np.hypot(axis[:, None], axis[None, :]) <= radius)


def _choose(
    seed: int,
    kind: str,
    options: Systems,
    monitoring: Monitoring,
    step: Survey,
    supersampling: int,
    inside: NDArray[np.bool_],
) -> tuple[Generator, _Watched]:
    """The first draw that passes all cuts, with the state of its random numbers."""
    refused = {"min_images": 0, "min_arc_snr": 0, "min_detections": 0}
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        system = draw_system(rng, kind, options, step)
        if system.lenses and system.supernova is not None and len(system.images.x) < options.min_images:
            refused["min_images"] += 1
            continue
        seen = _watch(rng, system, monitoring, step, supersampling, inside)
        if system.lenses and seen.arc_snr < options.min_arc_snr:
            refused["min_arc_snr"] += 1
        elif system.supernova is not None and seen.n_detections < options.min_detections:
            refused["min_detections"] += 1
        else:
            return rng, seen
    worst = max(refused, key=lambda name: refused[name])
    raise LenspipeError(
        f"supernovae: none of {_ATTEMPTS} draws of {kind} passed the cuts; {refused[worst]} failed {worst}: lower it "
        "or brighten what is drawn."
    )


def _watch(
    rng: Generator,
    system: System,
    monitoring: Monitoring,
    step: Survey,
    supersampling: int,
    inside: NDArray[np.bool_],
) -> _Watched:
    shape = (monitoring.steps, len(step.bands))
    nights = np.arange(monitoring.steps) * monitoring.cadence
    nights = nights + rng.uniform(-monitoring.jitter, monitoring.jitter, monitoring.steps)
    days = np.repeat(nights[:, None], shape[1], axis=1)
    fwhm = step.per_band("psf_fwhm") * np.exp(rng.normal(0, monitoring.seeing_scatter, shape))
    sky_rms = step.sky_rms() * np.exp(rng.normal(0, monitoring.sky_scatter, shape))
    layers = unit_layers([system.lens], [None], step, supersampling)[0].double().numpy()  # (2, H, W)
    flux = np.where(np.isfinite(system.magnitudes), step.flux(system.magnitudes), 0.0)  # (2, B)
    sky = torch.as_tensor(flux[:, :, None, None] * layers[:, None]).repeat(1, shape[0], 1, 1)  # (2, T B, H, W)
    blurred = blur_for(step, fwhm.ravel(), torch.float64).each(sky).numpy().reshape(2, *shape, *layers.shape[1:])
    varying = np.zeros(blurred.shape[1:])
    for x, y, curve in zip(system.images.x, system.images.y, system.light_curves(days, step)):
        varying += curve[..., None, None] * point_images(step, fwhm, float(x), float(y))
    steady = blurred.sum(0)
    sigma = _aperture_sigma(steady + varying, sky_rms, step.effective_gain(), inside)
    detections = varying[..., inside].sum(-1) > _DETECTION * sigma
    snr = np.sqrt(((blurred[0] / sky_rms[..., None, None]) ** 2).sum())
    return _Watched(system, days, fwhm, sky_rms, steady, varying, float(snr), int(detections.sum()))


def _aperture_sigma(model: Floats, sky_rms: Floats, gain: Floats, inside: NDArray[np.bool_]) -> Floats:
    """(T, B) noise of the flux within the aperture."""
    photons = np.maximum(model[..., inside], 0).sum(-1) / gain
    return np.asarray(np.sqrt(inside.sum() * sky_rms**2 + photons))
