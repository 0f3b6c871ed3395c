"""Where to begin: the lens light first, then a coarse grid over Einstein radius and source position.

The grid covers every radius the image allows; masks, where there are any, only tell which pixels are the arc while
the lens light is fitted, and add radii near the arc they show. A network's estimate of the deflector, where there is
one, adds starts.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from lenspipe.infer.config import SearchConfig
from lenspipe.infer.light import bright_residual
from lenspipe.infer.likelihood import Likelihood
from lenspipe.infer.objective import Objective
from lenspipe.infer.prepare import Prepared
from lenspipe.infer.priors import Priors
from lenspipe.lensing.light import half_light
from lenspipe.lensing.params import without_band
from lenspipe.lensing.scene import Scene
from lenspipe.types import DEFLECTOR, Estimate

Floats = NDArray[np.float64]

_POSITIONS = ((0.0, 1), (0.08, 6), (0.2, 10), (0.4, 14))
"""Source offsets in Einstein radii, and how many directions of each."""
_SIZES = (0.08, 0.25)
"""Source half-light radii of the grid, arcsec."""
_NEUTRAL = {"n_sersic": 1.0, "R_sersic": 0.2, "sigma": 0.2, "theta_E": 0.2, "gamma": 2.0, "s_scale": 0.02}
"""Where a parameter begins that nothing else says; others at 0."""


def lens_light(prepared: Prepared, scene: Scene, priors: Priors) -> tuple[Floats, Floats, Floats]:
    """Fit a `scene` of lens light alone, the arc masked out.

    Returns
    -------
    vector : (P,) parameters of `scene`.
    layers : (B,L,H,W) its components at unit amplitude, blurred, a sky last.
    model : (B,H,W) their best sum, without the sky, in flux units.
    """
    imaging = prepared.imaging
    begin = _first_light(scene, prepared)
    u = priors.inner(_vectors(scene, [begin]))
    arc = None if prepared.source is None else binary_dilation(prepared.source > 0.3)
    for _ in range(3):
        mask = imaging.mask if arc is None else imaging.mask & ~arc
        likelihood = Likelihood(replace(imaging, mask=mask), scene)
        u = Objective(likelihood, priors).climb(u).u
        if prepared.source is not None:
            break
        vector = priors.physical(u)[0]
        x, y = (mean_of(scene, vector, f"lens_light_{c}") for c in ("center_x", "center_y"))
        arc = bright_residual(likelihood.significance(torch.as_tensor(vector)), imaging, (x, y))
    vector = priors.physical(u)[0]
    row = torch.as_tensor(vector)[None]
    amplitudes = likelihood.solve(row, non_negative=True).amplitudes[0]
    layers = likelihood.response(row)[0]
    lights = len(scene.lens_light)
    model = torch.einsum("bl,lbhw->bhw", amplitudes[:, :lights], layers[:lights]).numpy() * likelihood.unit
    return vector, layers.transpose(0, 1).numpy(), model


def mean_of(scene: Scene, vector: Floats, name: str) -> float:
    """The mean over the bands of the parameter `name` without a band, out of a (P,) vector; 0 where there is none."""
    found = [float(value) for key, value in zip(scene.names, vector) if without_band(key) == name]
    return sum(found) / max(len(found), 1)


def grid(prepared: Prepared, scene: Scene, priors: Priors, light: dict[str, float], config: SearchConfig) -> Floats:
    """(N, P) sampled coordinates: radii x ellipticities x source positions x sizes, the lens light as fitted."""
    radii = list(np.geomspace(*searched(prepared, config), config.radii))
    hint = _arc_radius(prepared, (light["center_x"], light["center_y"]))
    if hint is not None:
        radii += list(hint * np.geomspace(0.75, 1.33, 7))
    e1, e2 = (light.get(f"lens_light_{e}", 0.0) for e in ("e1", "e2"))
    centre = light["center_x"], light["center_y"]
    rows = []
    for theta_E in radii:
        for share in (1.0, 0.3):
            mass = {"theta_E": theta_E, "e1": share * e1, "e2": share * e2}
            rows += [mass | source for source in _sources(theta_E, centre)]
    base = _neutral(scene) | light
    return priors.inner(_vectors(scene, [base | row for row in rows]))


def drawn(estimate: Estimate, scene: Scene, priors: Priors, light: dict[str, float], count: int) -> Floats:
    """(count, K, P) sampled coordinates: deflectors drawn from a network's Gaussian, its mean first, each with K
    sources of several places and sizes, about its own centre and about that of the light.

    The standard deviates are the same for every candidate.
    """
    root = np.linalg.cholesky(estimate.covariance)
    deviates = np.random.default_rng(0).standard_normal((count, len(DEFLECTOR)))
    deviates[:1] = 0
    base, rows = _neutral(scene) | light, []
    for values in (estimate.mean + deviates @ root.T).tolist():
        mass = dict(zip(DEFLECTOR, values))
        mass["theta_E"] = math.exp(mass["theta_E"])
        for x, y in ((mass["center_x"], mass["center_y"]), (light["center_x"], light["center_y"])):
            about = base | mass | {"center_x": x, "center_y": y}
            rows += [about | source for source in _sources(mass["theta_E"], (x, y))]
    return priors.inner(_vectors(scene, rows)).reshape(count, -1, len(scene.names))


def _sources(theta_E: float, centre: tuple[float, float]) -> list[dict[str, float]]:
    """Places and sizes of the source behind a deflector."""
    rows = []
    for size in _SIZES:
        for offset, count in _POSITIONS:
            for k in range(count):
                angle = 2 * math.pi * (k + 0.25) / count
                rows.append({"source_R_sersic": size, "source_sigma": size / half_light("GAUSSIAN_ELLIPSE"),
                             "source_center_x": centre[0] + offset * theta_E * math.cos(angle),
                             "source_center_y": centre[1] + offset * theta_E * math.sin(angle)})  # fmt: skip
    return rows


def searched(prepared: Prepared, config: SearchConfig) -> tuple[float, float]:
    """Smallest and largest Einstein radius of the grid, arcsec: beyond, no image shows both sides of an arc."""
    half = min(prepared.imaging.shape) * prepared.imaging.pixel_scale / 2
    return config.theta_E_min, config.theta_E_max or 0.7 * half


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


def _arc_radius(prepared: Prepared, centre: tuple[float, float]) -> float | None:
    """Probability-weighted mean distance of the source pixels from the lens, arcsec."""
    if prepared.source is None or (prepared.source > 0.5).sum() < 3:
        return None
    distance = prepared.imaging.distance(centre)
    weight = np.where(prepared.source > 0.5, prepared.source, 0)
    return max(float((weight * distance).sum() / weight.sum()), 0.1)
