"""What users publish, out of the sampled parameters.

Legend: S draws, P parameters, B bands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenspipe.infer.likelihood import Likelihood
from lenspipe.lensing.grid import axes
from lenspipe.lensing.light import BRIGHTNESS
from lenspipe.lensing.mass import DEFLECTION
from lenspipe.lensing.scene import Scene

Floats = NDArray[np.float64]

_FINE = 0.09
"""arcsec; the grid on which magnifications are summed is at least this fine."""
_DIRECTIONS, _NEWTON = 256, 20
"""Points on the circle of a mean convergence, and steps towards its radius."""


@dataclass(frozen=True)
class Quantity:
    """A derived quantity: (S,) draws and a unit."""

    draws: Floats
    unit: str


def axis_ratio(e1: Floats, e2: Floats) -> Floats:
    """Minor over major axis of an ellipticity (e1, e2)."""
    c = np.minimum(np.hypot(e1, e2), 0.9999)
    return np.asarray((1 - c) / (1 + c))


def orientation(e1: Floats, e2: Floats) -> Floats:
    """Angle of the major axis from +x towards +y, radians."""
    return np.asarray(np.arctan2(e2, e1) / 2)


def position_angle(phi: Floats, cd: NDArray[np.float64]) -> Floats:
    """Degrees east of north, 0 to 180, of a direction `phi` (radians from +x) under the (2,2) CD matrix."""
    east, north = cd @ np.stack([np.cos(phi), np.sin(phi)])
    return np.asarray(np.degrees(np.arctan2(east, north)) % 180)


def shapes(column: Mapping[str, Floats], cd: NDArray[np.float64] | None) -> dict[str, Quantity]:
    """Axis ratio, direction and shear of the first deflector from the draws of its parameters, as far as it has them.

    The position angle on the sky where the (2,2) CD matrix is known.
    """
    result = {}
    if {"e1", "e2"} <= column.keys():
        phi = orientation(column["e1"], column["e2"])
        result["q"] = Quantity(axis_ratio(column["e1"], column["e2"]), "")
        result["phi"] = Quantity(np.degrees(phi), "deg")
        if cd is not None:
            result["pa"] = Quantity(position_angle(phi, cd), "deg")
    if {"gamma1", "gamma2"} <= column.keys():
        result["gamma_ext"] = Quantity(np.hypot(column["gamma1"], column["gamma2"]), "")
    return result


def effective_einstein_radius(scene: Scene, vectors: Floats) -> Floats:
    """(S,) radius of the circle within which the main deflector's mean convergence is 1, arcsec; NaN where none is.

    By Gauss's theorem that mean is the mean radial deflection on the circle over its radius, whatever the profile.
    Shear, a convergence sheet and other deflectors do not count.
    """
    main, rows = scene.lens[0], torch.as_tensor(vectors)
    angle = 2 * math.pi * (torch.arange(_DIRECTIONS, dtype=rows.dtype) + 0.5) / _DIRECTIONS
    cos, sin = torch.cos(angle), torch.sin(angle)
    parameters = main.parameters(rows)
    x0, y0, theta_E = (rows[:, main.column(name), None, None] for name in ("center_x", "center_y", "theta_E"))

    def log_mean(u: Tensor) -> Tensor:
        radius = torch.exp(u)
        alpha_x, alpha_y = DEFLECTION[main.profile](x0 + radius * cos, y0 + radius * sin, *parameters)
        return torch.log((alpha_x * cos + alpha_y * sin).mean(-1, keepdim=True) / radius)

    # In logarithms a power law is a straight line: Newton's method is there in one step, and with a core in a few.
    u, step = torch.log(theta_E), 1e-4
    for _ in range(_NEWTON):
        value = log_mean(u)
        u = u - (value * step / (log_mean(u + step) - value)).clamp(-1, 1)
    found = log_mean(u).abs() < 1e-9
    return np.asarray(torch.where(found, torch.exp(u), math.nan)[:, 0, 0].numpy())


@dataclass(frozen=True)
class Photometry:
    """Fluxes out to infinity (S,B), in the unit of the data; those of several components together. (Held lens light:
    as far as it lies on the window.)

    Attributes
    ----------
    source : of the sources, before lensing.
    arc : of their images, as far as they lie on the cutout.
    lens : of the lens light; None where the scene has none.
    magnification : (S,), lensed over unlensed flux of all sources, the bands' fluxes added up.
    """

    source: Floats
    arc: Floats
    lens: Floats | None
    magnification: Floats


def photometry(likelihood: Likelihood, vectors: Floats) -> Photometry:
    """Of (S, P) `vectors`, at their best amplitudes that are not negative."""
    scene, data = likelihood.scene, likelihood.data
    factor = max(math.ceil(data.pixel_scale / _FINE), 1)
    # Single precision is a thousand times better than what a sum over pixels of this size is worth.
    x, y = axes(*data.shape, data.pixel_scale, factor, torch.float32)
    area, sources = (data.pixel_scale / factor) ** 2, len(scene.source)
    fluxes, arcs, held, magnification = [], [], [], []
    for part in torch.as_tensor(vectors).split(8):
        found = likelihood.solve(part, non_negative=True)
        amplitudes = found.amplitudes[..., : likelihood.n_positive].double()
        if data.templates is not None:
            weights = likelihood.template_amplitudes(found)[..., :-1]
            held.append(np.einsum("kbt,bt->kb", weights, data.templates[:, :-1].sum((-1, -2))))
        each = scene.unit_fluxes(part, len(data.image))
        lensed = scene.arcs(part.float(), x, y).sum((-1, -2), dtype=torch.float64) * area
        lensed = lensed.movedim(1, -1) if scene.bands else lensed[:, None]
        fluxes.append(amplitudes * each)
        arcs.append((amplitudes[..., :sources] * lensed).sum(-1))
        # Where no source is seen at all, the magnification is that of equal amplitudes.
        dark = amplitudes[..., :sources].sum((-1, -2), keepdim=True) <= 0
        weight = torch.where(dark, 1.0, amplitudes[..., :sources])
        magnification.append((weight * lensed).sum((-1, -2)) / (weight * each[..., :sources]).sum((-1, -2)))
    unit = likelihood.unit / likelihood.pixel_area
    total = torch.cat(fluxes).numpy() * unit
    sampled = total[..., sources:].sum(-1) if scene.lens_light else None
    return Photometry(
        source=total[..., :sources].sum(-1),
        arc=torch.cat(arcs).numpy() * unit,
        lens=np.concatenate(held) if held else sampled,
        magnification=torch.cat(magnification).numpy(),
    )


def magnitudes(seen: Photometry, zero_point: Floats, bands: tuple[str, ...]) -> dict[str, Quantity]:
    """AB magnitudes per band of the sources unlensed, of their images, and of the lens light; NaN without flux."""
    result = {}
    for name, flux in (("source_mag", seen.source), ("arc_mag", seen.arc), ("lens_mag", seen.lens)):
        for b, band in enumerate(bands):
            if flux is not None and np.isfinite(zero_point[b]):
                positive = np.where(flux[:, b] > 0, flux[:, b], np.nan)
                result[f"{name}_{band}"] = Quantity(zero_point[b] - 2.5 * np.log10(positive), "mag")
    return result


def physical(
    effective: Floats, isothermal: Floats | None, z_lens: float, z_source: float, cosmology: str
) -> dict[str, Quantity]:
    """Projected mass within the `effective` Einstein radius (Narayan & Bartelmann 1996, eq. 44), radii in arcsec.

    `isothermal` is theta_E of a singular isothermal profile: from it follows the velocity dispersion.
    """
    from astropy import constants, units
    from astropy.cosmology import FlatLambdaCDM, Planck18

    cosmos = Planck18 if cosmology == "Planck18" else FlatLambdaCDM(H0=70, Om0=0.3)
    d_l, d_s = (cosmos.angular_diameter_distance(z) for z in (z_lens, z_source))
    d_ls = cosmos.angular_diameter_distance(z_lens, z_source)
    critical = constants.c**2 / (4 * np.pi * constants.G) * d_s / (d_l * d_ls)
    radius = (effective * units.arcsec).to_value(units.rad) * d_l
    mass = (critical * np.pi * radius**2).to_value(units.Msun)
    result = {"log10_mass_E": Quantity(np.log10(mass), "dex(Msun)")}
    if isothermal is not None:
        angle = (isothermal * units.arcsec).to_value(units.rad)
        speed = constants.c.to_value(units.km / units.s)
        sigma_v = speed * np.sqrt(angle / (4 * np.pi) * (d_s / d_ls).to_value(units.one))
        result["sigma_v"] = Quantity(sigma_v, "km/s")
    return result


def inverse_magnification(
    scene: Scene, vector: Floats, shape: tuple[int, int], pixel_scale: float, supersampling: int = 1
) -> Floats:
    """det A = 1 / magnification on the (sub)pixel grid (H s, W s), by central differences of the lens equation."""
    step = 1e-4
    x, y = axes(*shape, pixel_scale, supersampling)
    row = torch.as_tensor(vector)[None]
    (xp, yp), (xm, ym) = (scene.ray_shoot(row, x + d, y) for d in (step, -step))
    (xu, yu), (xd, yd) = (scene.ray_shoot(row, x, y + d) for d in (step, -step))
    determinant = (xp - xm) * (yu - yd) - (xu - xd) * (yp - ym)
    return np.asarray((determinant / (4 * step**2))[0])


def source_plane(scene: Scene, vector: Floats, amplitudes: Floats, side: float, pixels: int) -> Floats:
    """The sources unlensed and unblurred, (B, pixels, pixels): a square of `side` arcsec about the first one.

    Parameters
    ----------
    amplitudes : (B, sources), lenstronomy's.
    """
    row, first = torch.as_tensor(vector)[None], scene.source[0]
    x0, y0 = (float(vector[first.column(name)]) for name in ("center_x", "center_y"))
    x, y = axes(pixels, pixels, side / pixels)
    layers = [BRIGHTNESS[c.profile](x + x0, y + y0, *c.parameters(row)) for c in scene.source]
    shape = (len(amplitudes), pixels, pixels)
    every = torch.stack([layer.reshape(-1, pixels, pixels).expand(shape) for layer in layers])
    return np.asarray(torch.einsum("bl,lbhw->bhw", torch.as_tensor(amplitudes), every))
