"""What users publish, out of the sampled parameters.

Legend: S draws, P parameters, B bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ellipk

from lenspipe.infer.likelihood import Likelihood
from lenspipe.lensing.grid import axes
from lenspipe.lensing.light import sersic_ellipse, sersic_flux
from lenspipe.lensing.scene import Scene

Floats = NDArray[np.float64]

_FINE = 0.09
"""arcsec; the grid on which magnifications are summed is at least this fine."""


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


def effective_einstein_radius(theta_E: Floats, q: Floats) -> Floats:
    """Radius of the circle within which the mean convergence of an SIE is 1, arcsec; shear excluded.

    The mean of kappa = theta_E sqrt(q) / (2 sqrt(q^2 x^2 + y^2)) over a circle, an elliptic integral.
    """
    return np.asarray(2 / np.pi * theta_E * np.sqrt(q) * ellipk(1 - q**2))


def magnification(scene: Scene, vectors: Floats, shape: tuple[int, int], pixel_scale: float) -> Floats:
    """(S,) total magnification of the sources: lensed flux on the cutout over unlensed flux (equal amplitudes)."""
    factor = max(math.ceil(pixel_scale / _FINE), 1)
    x, y = axes(*shape, pixel_scale, factor)
    area = (pixel_scale / factor) ** 2
    result = []
    for part in torch.as_tensor(vectors).split(8):
        beta = scene.ray_shoot(part, x, y)
        lensed = torch.stack([sersic_ellipse(*beta, *c.parameters(part)).sum((-1, -2)) for c in scene.source], 1) * area
        unlensed = torch.stack([sersic_flux(part[:, c.columns[0]], part[:, c.columns[1]]) for c in scene.source], 1)
        result.append(lensed.sum(1) / unlensed.sum(1))
    return torch.cat(result).numpy()


def magnitudes(
    likelihood: Likelihood, vectors: Floats, zero_point: Floats, bands: tuple[str, ...]
) -> dict[str, Quantity]:
    """AB magnitudes per band of the first source, unlensed, and of the lens, out to infinity."""
    scene = likelihood.scene
    found = [likelihood.solve(part).amplitudes for part in torch.as_tensor(vectors).split(8)]
    amplitudes = torch.cat(found).numpy() * likelihood.unit / likelihood.pixel_area
    layers = {"source_mag": (0, scene.source[:1]), "lens_mag": (len(scene.source), scene.lens_light[:1])}
    result = {}
    for name, (layer, components) in layers.items():
        for component in components:
            shape = torch.as_tensor(vectors[:, component.columns[:2]])
            flux = amplitudes[:, :, layer] * sersic_flux(shape[:, 0], shape[:, 1]).numpy()[:, None]
            for b, band in enumerate(bands):
                if np.isfinite(zero_point[b]):
                    positive = np.where(flux[:, b] > 0, flux[:, b], np.nan)
                    result[f"{name}_{band}"] = Quantity(zero_point[b] - 2.5 * np.log10(positive), "mag")
    return result


def physical(theta_E: Floats, z_lens: float, z_source: float, cosmology: str) -> dict[str, Quantity]:
    """Velocity dispersion of an SIE and projected mass within theta_E (Narayan & Bartelmann 1996, eq. 44)."""
    from astropy import constants, units
    from astropy.cosmology import FlatLambdaCDM, Planck18

    cosmos = Planck18 if cosmology == "Planck18" else FlatLambdaCDM(H0=70, Om0=0.3)
    d_l, d_s = (cosmos.angular_diameter_distance(z) for z in (z_lens, z_source))
    d_ls = cosmos.angular_diameter_distance(z_lens, z_source)
    angle = (theta_E * units.arcsec).to_value(units.rad)
    speed = constants.c.to_value(units.km / units.s)
    sigma_v = speed * np.sqrt(angle / (4 * np.pi) * (d_s / d_ls).to_value(units.one))
    critical = constants.c**2 / (4 * np.pi * constants.G) * d_s / (d_l * d_ls)
    mass = (critical * np.pi * (angle * d_l) ** 2).to_value(units.Msun)
    return {"sigma_v": Quantity(sigma_v, "km/s"), "log10_mass_E": Quantity(np.log10(mass), "dex(Msun)")}


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
    amplitudes : (B, sources) brightness at the half-light radius.
    """
    row = torch.as_tensor(vector)[None]
    _, _, _, _, x0, y0 = scene.source[0].parameters(row)
    x, y = axes(pixels, pixels, side / pixels)
    layers = torch.cat([sersic_ellipse(x + x0, y + y0, *c.parameters(row)) for c in scene.source])
    return np.asarray(torch.einsum("bl,lhw->bhw", torch.as_tensor(amplitudes), layers))
