"""Whole samples of discs: continuum and CO channels through the beam, with noise on the beam's scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from lenspipe.sim.discs.config import Discs, Telescope
from lenspipe.sim.discs.disc import Disc, draw_disc
from lenspipe.sim.discs.planet import JUPITER
from lenspipe.sim.learners import Row, class_of, columns, log_uniform
from lenspipe.types import Samples

Floats = NDArray[np.float64]
UNITS = {
    "distance": "pc",
    "stellar_mass": "solMass",
    "inclination": "deg",
    "major_axis_angle": "deg",
    "spin": "",
    "center_x": "arcsec",
    "center_y": "arcsec",
    "radius": "AU",
    "dust_mass": "earthMass",
    "density_slope": "",
    "temperature": "K",
    "aspect_ratio": "",
    "gas_radius": "AU",
    "gas_temperature": "",
    "gas_height": "",
    "line_width": "km/s",
    "n_rings": "",
    "spiral_contrast": "",
    "spiral_pitch": "deg",
    "planet_mass": "jupiterMass",
    "planet_radius": "AU",
    "planet_azimuth": "deg",
    "planet_x": "arcsec",
    "planet_y": "arcsec",
    "planet_thermal_masses": "",
    "viscosity": "",
    "gap_depth": "",
    "gap_width": "AU",
    "beam_major": "arcsec",
    "beam_minor": "arcsec",
    "beam_angle": "deg",
    "noise": "mJy/beam",
    "channel_noise": "mJy/beam",
}
MEMBERS = {"row": "", "ring_radius": "AU", "ring_depth": "", "ring_width": "AU"}
"""Columns of the list of gaps that no planet made."""
_ARCSEC2 = (math.pi / 180 / 3600) ** 2
"""sr"""


def simulate(
    ids: Sequence[str],
    seeds: Sequence[int],
    numbers: Sequence[int],
    classes: Sequence[str],
    options: Discs,
    telescope: Telescope,
) -> Samples:
    """One disc per seed, of the class that follows from its number; planes are the continuum and each channel."""
    label = np.array([class_of(number, classes) for number in numbers], dtype=np.uint8)
    axis = (np.arange(telescope.n_pixels) - (telescope.n_pixels - 1) / 2) * telescope.pixel_scale
    x, y = np.meshgrid(axis, axis)
    rows: list[Row] = []
    members, images = [], []
    for row, (seed, index) in enumerate(zip(seeds, label)):
        rng = np.random.default_rng([seed, 0])
        disc = draw_disc(rng, options, classes[index] == "planet")
        major = rng.uniform(*telescope.beam)
        minor, angle = major * rng.uniform(*telescope.beam_ratio), rng.uniform(0, math.pi)
        rms, channel_rms = log_uniform(rng, telescope.noise), log_uniform(rng, telescope.channel_noise)
        kernel = beam_kernel(major, minor, angle, telescope.pixel_scale)
        # mJy/beam of a Jy/sr: a Gaussian beam's solid angle.
        per_beam = 1e3 * math.pi * major * minor / (4 * math.log(2)) * _ARCSEC2
        planes = [disc.continuum(x, y, telescope.frequency)]
        planes += [disc.channel(x, y, telescope.frequency, v) for v in telescope.channels]
        levels = [rms, *(channel_rms for _ in telescope.channels)]
        images.append(
            [
                per_beam * fftconvolve(plane, kernel, mode="same") + beam_noise(rng, plane.shape, kernel, level)
                for plane, level in zip(planes, levels)
            ]
        )
        about = {"beam_major": major, "beam_minor": minor, "beam_angle": math.degrees(angle)}
        rows.append({**_truth(disc), **about, "noise": rms, "channel_noise": channel_rms})
        members += [(row, ring.radius, ring.depth, ring.width) for ring in disc.rings]
    listed = np.array(members, dtype=np.float64).reshape(-1, len(MEMBERS))
    return Samples(
        id=tuple(ids),
        classes=tuple(classes),
        label=label,
        bands=("continuum", *(f"CO {v:+g} km/s" for v in telescope.channels)),
        image=np.array(images, dtype=np.float32),
        unit="mJy/beam",
        pixel_scale=telescope.pixel_scale,
        truth=columns(rows, UNITS),
        units={**UNITS, **MEMBERS},
        members=dict(zip(MEMBERS, listed.T)),
    )


def beam_kernel(major: float, minor: float, angle: float, pixel_scale: float) -> Floats:
    """(k, k) Gaussian of FWHM `major` and `minor` arcsec, its major axis `angle` radians from +x; sums to 1, k odd."""
    sigma = [fwhm / math.sqrt(8 * math.log(2)) / pixel_scale for fwhm in (major, minor)]
    reach = math.ceil(4 * sigma[0])
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-0.5 * ((u / sigma[0]) ** 2 + (v / sigma[1]) ** 2))
    return np.asarray(kernel / kernel.sum())


def beam_noise(rng: Generator, shape: tuple[int, ...], kernel: Floats, rms: float) -> Floats:
    """Noise of `rms`, correlated as the beam: an interferometer's noise is in the visibilities that made the beam."""
    height, width = (n + k - 1 for n, k in zip(shape, kernel.shape))
    white = rng.standard_normal((height, width))
    return np.asarray(rms / math.sqrt((kernel**2).sum()) * fftconvolve(white, kernel, mode="valid"))


def _truth(disc: Disc) -> Row:
    contrast, pitch, _ = disc.spiral
    same = (
        *("distance", "stellar_mass", "center_x", "center_y", "radius", "dust_mass", "density_slope", "temperature"),
        *("gas_radius", "gas_temperature", "gas_height", "line_width"),
    )
    truth = {
        **{name: float(getattr(disc, name)) for name in same},
        "spin": float(disc.spin),
        "inclination": math.degrees(disc.inclination),
        "major_axis_angle": math.degrees(disc.axis),
        "aspect_ratio": disc.aspect,
        "n_rings": float(len(disc.rings)),
        "spiral_contrast": contrast,
    }
    if contrast:
        truth["spiral_pitch"] = math.degrees(pitch)
    planet = disc.planet
    if planet is None:
        return truth
    x, y = disc.on_sky(planet.radius, planet.azimuth)
    return truth | {
        "planet_mass": planet.ratio * disc.stellar_mass / JUPITER,
        "planet_radius": planet.radius,
        "planet_azimuth": math.degrees(planet.azimuth),
        "planet_x": x,
        "planet_y": y,
        "planet_thermal_masses": planet.thermal_ratio,
        "viscosity": planet.alpha,
        "gap_depth": planet.gap_depth,
        "gap_width": planet.gap_width,
    }
