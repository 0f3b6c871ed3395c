"""Where to begin: the lens light first, then a coarse grid over Einstein radius and source position.

The grid covers every radius the image allows; masks, where there are any, only tell which pixels are the arc while
the lens light is fitted, and add radii near the arc they show.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from lenspipe.infer.config import SearchConfig
from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.infer.objective import Objective
from lenspipe.infer.optimise import levenberg_marquardt
from lenspipe.infer.prepare import Prepared
from lenspipe.infer.priors import Priors
from lenspipe.lensing.light import half_light
from lenspipe.lensing.params import without_band
from lenspipe.lensing.scene import Scene, build

Floats = NDArray[np.float64]

_POSITIONS = ((0.0, 1), (0.08, 6), (0.2, 10), (0.4, 14))
"""Source offsets in Einstein radii, and how many directions of each."""
_SIZES = (0.08, 0.25)
"""Source half-light radii of the grid, arcsec."""
_NEUTRAL = {"n_sersic": 1.0, "R_sersic": 0.2, "sigma": 0.2, "theta_E": 0.2, "gamma": 2.0, "s_scale": 0.02}
"""Where a parameter begins that nothing else says; others at 0."""


def lens_light(prepared: Prepared, scene: Scene, priors: Priors) -> tuple[dict[str, float], Floats]:
    """Fit the lens light alone, the arc masked out.

    Returns
    -------
    values : parameter name -> value, for the lens light, and its centre as the deflector's ``center_x, center_y`` too.
    model : (B,H,W) lens light in flux units.
    """
    imaging = prepared.imaging
    free = ["lens_light"] if any(c.per_band for c in scene.lens_light) else []
    profiles = [c.profile for c in scene.lens_light]
    light_scene = build([], [], profiles, scene.sky, joint_centre=False, free=free, bands=scene.bands)
    joint = scene.lens_light[0].columns[-2:] == scene.lens[0].columns[-2:]
    centre = {f"lens_light_{c}": c for c in ("center_x", "center_y")}
    # With a joint centre the light's centre carries the prior of the deflector's.
    aliases = centre if joint else {}
    declared = {n: priors.priors[scene.index(aliases.get(n, n))] for n in light_scene.names}
    own = Priors(light_scene.names, declared)
    begin = _first_light(light_scene, prepared)
    u = own.inner(_vectors(light_scene, [begin]))
    arc = None if prepared.source is None else binary_dilation(prepared.source > 0.3)
    for _ in range(3):
        mask = imaging.mask if arc is None else imaging.mask & ~arc
        likelihood = Likelihood(replace(imaging, mask=mask), light_scene)
        u = levenberg_marquardt(Objective(likelihood, own), u, own.lower, own.upper, 20).u
        if prepared.source is not None:
            break
        arc = _bright_residual(likelihood, own.physical(u)[0])
    found = likelihood.solve(torch.as_tensor(own.physical(u)), non_negative=True)
    full = Likelihood(imaging, light_scene)
    amplitudes = found.amplitudes[0, :, : full.n_positive]
    layers = full.response(torch.as_tensor(own.physical(u)))[0, : full.n_positive]
    model = torch.einsum("bl,lbhw->bhw", amplitudes, layers).numpy() * likelihood.unit
    values = dict(zip(light_scene.names, own.physical(u)[0].tolist()))
    return values | {c: values[n] for n, c in centre.items()}, model


def grid(prepared: Prepared, scene: Scene, priors: Priors, light: dict[str, float], config: SearchConfig) -> Floats:
    """(N, P) sampled coordinates: radii x ellipticities x source positions x sizes, the lens light as fitted."""
    height, width = prepared.imaging.shape
    half = min(height, width) * prepared.imaging.pixel_scale / 2
    largest = min(config.theta_E_max or 0.7 * half, priors.priors[scene.index("theta_E")].upper)
    radii = list(np.geomspace(config.theta_E_min, largest, config.radii))
    hint = _arc_radius(prepared, (light["center_x"], light["center_y"]))
    if hint is not None:
        radii += list(hint * np.geomspace(0.75, 1.33, 7))
    e1, e2 = (_mean_of(light, f"lens_light_{e}") for e in ("e1", "e2"))
    rows = []
    for theta_E in radii:
        for share in (1.0, 0.3):
            for size in _SIZES:
                for offset, count in _POSITIONS:
                    for k in range(count):
                        angle = 2 * math.pi * (k + 0.25) / count
                        x = light["center_x"] + offset * theta_E * math.cos(angle)
                        y = light["center_y"] + offset * theta_E * math.sin(angle)
                        rows.append({"theta_E": theta_E, "e1": share * e1, "e2": share * e2, "source_R_sersic": size,
                                     "source_sigma": size / half_light("GAUSSIAN_ELLIPSE"),
                                     "source_center_x": x, "source_center_y": y})  # fmt: skip
    base = _neutral(scene) | light
    return priors.inner(_vectors(scene, [base | row for row in rows]))


def choose(u: Floats, cost: Floats, radius: Floats, count: int) -> Floats:
    """`count` of the (N, P) points: the best of each Einstein radius first, then the best that are left."""
    order = np.argsort(cost)
    best = {round(float(r), 6): i for i, r in reversed(list(zip(order, radius[order])))}
    first = sorted(best.values(), key=lambda i: cost[i])[: max(count * 2 // 3, 1)]
    rest = [i for i in order if i not in set(first)]
    return u[[*first, *rest][:count]]


def _first_light(scene: Scene, prepared: Prepared) -> dict[str, float]:
    values = _neutral(scene)
    for i in range(len(scene.lens_light)):
        prefix = "lens_light_" if i == 0 else f"lens_light{i}_"
        values[f"{prefix}center_x"], values[f"{prefix}center_y"] = prepared.centre
        # A second component starts as an extended disc around a compact bulge.
        values[f"{prefix}R_sersic"], values[f"{prefix}n_sersic"] = ((1.0, 3.0), (2.5, 1.2), (0.3, 2.0))[i % 3]
        values[f"{prefix}sigma"] = (0.8, 2.0, 0.2)[i % 3]
    return values


def _neutral(scene: Scene) -> dict[str, float]:
    """Round, centred, isothermal, nothing outside the lens; n = 1 for the source. Names are those without a band."""
    names = map(without_band, scene.names)
    return {name: next((v for end, v in _NEUTRAL.items() if name.endswith(end)), 0.0) for name in names}


def _vectors(scene: Scene, rows: list[dict[str, float]]) -> Floats:
    """(N, P) parameters out of values by name, with or without the band."""
    pairs = [(name, without_band(name)) for name in scene.names]
    return np.array([[row[name] if name in row else row[short] for name, short in pairs] for row in rows])


def _mean_of(values: dict[str, float], name: str) -> float:
    """The mean over the bands of the parameter `name` without a band; 0 where there is none."""
    found = [value for key, value in values.items() if without_band(key) == name]
    return sum(found) / max(len(found), 1)


def _arc_radius(prepared: Prepared, centre: tuple[float, float]) -> float | None:
    """Probability-weighted mean distance of the source pixels from the lens, arcsec."""
    if prepared.source is None or (prepared.source > 0.5).sum() < 3:
        return None
    distance = _distance(prepared.imaging, centre)
    weight = np.where(prepared.source > 0.5, prepared.source, 0)
    return max(float((weight * distance).sum() / weight.sum()), 0.1)


def _bright_residual(likelihood: Likelihood, values: Floats) -> NDArray[np.bool_]:
    """(H,W) pixels that stay 3 sigma too bright, smoothed, outside the core: arcs and neighbours."""
    width, imaging, scene = 1.5, likelihood.data, likelihood.scene
    smooth = gaussian_filter(likelihood.significance(torch.as_tensor(values)), width) * math.sqrt(4 * math.pi) * width
    x, y = (float(values[scene.index(f"lens_light_{c}")]) for c in ("center_x", "center_y"))
    return binary_dilation((smooth > 3) & (_distance(imaging, (x, y)) > 6 * imaging.pixel_scale))


def _distance(imaging: Imaging, centre: tuple[float, float]) -> Floats:
    height, width = imaging.shape
    x = (np.arange(width) - (width - 1) / 2) * imaging.pixel_scale - centre[0]
    y = (np.arange(height) - (height - 1) / 2) * imaging.pixel_scale - centre[1]
    return np.hypot(x, y[:, None])
