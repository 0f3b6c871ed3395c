"""A simulated lens with its model, sampled values and fit.json: what the pictures are tried on."""

from __future__ import annotations

from typing import Any

import numpy as np

from lenspipe import __version__
from lenspipe.errors import Reason
from lenspipe.lensing.params import UNITS
from lenspipe.view.critical import critical_curves

_SERSIC = ("R_sersic", "n_sersic", "e1", "e2")
NAMES = [
    *("theta_E", "e1", "e2", "center_x", "center_y", "gamma1", "gamma2"),
    *(f"source_{name}" for name in (*_SERSIC, "center_x", "center_y")),
    *(f"lens_light_{name}" for name in _SERSIC),
]
TRUTH = np.array(
    [1.62, 0.08, -0.05, 0.03, -0.02, 0.03, -0.01, 0.22, 1.3, 0.1, 0.12, 0.13, -0.09, 0.85, 3.4, 0.07, -0.04]
)


def units() -> list[str]:
    return [next(unit for tail, unit in UNITS.items() if name.endswith(tail)) for name in NAMES]


def scene(bands: str = "gri", size: int = 61, pixel_scale: float = 0.2, seed: int = 1) -> dict[str, Any]:
    """Keyword arguments of `model_figure` and `sheet_figure`: a singular isothermal sphere with shear."""
    rng = np.random.default_rng(seed)
    axis = (np.arange(size) - (size - 1) / 2) * pixel_scale
    x, y = np.meshgrid(axis, axis)
    theta_e, shear = 1.62, 0.06

    def shoot(x: Any, y: Any) -> tuple[Any, Any]:
        r = np.hypot(x, y) + 1e-9
        return x - theta_e * x / r - shear * x, y - theta_e * y / r + shear * y

    def blob(x: Any, y: Any, scale: float) -> Any:
        return np.exp(-1.7 * np.hypot(x, y) / scale)

    beta_x, beta_y = shoot(x, y)
    r = np.hypot(x, y) + 1e-9
    kappa = theta_e / (2 * r)
    inverse = (1 - kappa) ** 2 - kappa**2 - shear**2 + 2 * kappa * shear * (x**2 - y**2) / r**2
    source_axis = np.linspace(-1, 1, 80)
    sx, sy = np.meshgrid(source_axis, source_axis)
    b = len(bands)
    colour = np.linspace(1.5, 0.7, b)[:, None, None] if b > 1 else np.ones((1, 1, 1))
    model = 40 * blob(x, y, 0.8) / colour + 12 * blob(beta_x - 0.13, beta_y + 0.09, 0.25) * colour
    sigma = np.sqrt(0.6**2 + model / 30)
    image = model + rng.normal(size=model.shape) * sigma
    valid = np.ones(image.shape, bool)
    valid[:, 45:54, 48:58] = False
    image[:, 45:54, 48:58] += 20 * blob(*np.meshgrid(np.arange(-5, 5), np.arange(-4, 5)), 2.0)
    curves = critical_curves(1 / inverse, pixel_scale)
    return {
        "bands": tuple(bands),
        "image": image,
        "model": model,
        "sigma": sigma,
        "valid": valid,
        "pixel_scale": pixel_scale,
        "magnification": 1 / inverse,
        "critical_curves": curves,
        "caustics": [np.stack(shoot(curve[:, 0], curve[:, 1]), -1) for curve in curves],
        "source_plane": blob(sx - 0.13, sy + 0.09, 0.25) * colour,
        "source_extent": (-1.0, 1.0, -1.0, 1.0),
    }


def masks(scene: dict[str, Any]) -> Any:
    """(4, H, W) probabilities: a ring, a core, the masked neighbour, the rest."""
    height, width = scene["image"].shape[1:]
    y, x = np.mgrid[:height, :width]
    r = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2) * scene["pixel_scale"]
    classes = np.stack([(r > 1.2) & (r < 2.2), r <= 1.2, ~scene["valid"][0]]).astype(float)
    return np.concatenate([classes, np.maximum(0, 1 - classes.sum(0, keepdims=True))]) * 0.9 + 0.025


def draws(chains: int = 4, per_chain: int = 3000, seed: int = 2) -> tuple[Any, Any]:
    """(chain, draw, P) correlated Gaussian samples about the truth, and their (chain, draw) log posterior."""
    rng = np.random.default_rng(seed)
    width = 0.01 * (1 + np.abs(TRUTH))
    white = rng.normal(size=(chains, per_chain, len(NAMES)))
    white[..., 1] = 0.7 * white[..., 1] + 0.7 * white[..., 5]
    return TRUTH + width * white, -0.5 * (white**2).sum(-1)


def fit(status: str = "good", id: str = "sim-000042") -> dict[str, Any]:
    """The content of a fit.json with all its keys."""
    samples = draws()[0].reshape(-1, len(NAMES))

    def quantity(values: Any, unit: str) -> dict[str, Any]:
        p025, p16, median, p84, p975 = np.percentile(values, (2.5, 16, 50, 84, 97.5))
        figures = {"p025": p025, "p16": p16, "median": median, "p84": p84, "p975": p975}
        return {**figures, "mean": values.mean(), "sigma": values.std(), "unit": unit}

    found = () if status == "good" else (Reason.LOW_MAGNIFICATION, Reason.PARAMETER_AT_BOUND)
    return {
        "id": id,
        "status": status,
        "reasons": [{"code": str(r), "sentence": r.sentence} for r in found],
        "sampler_converged": True,
        "parameters": {n: quantity(samples[:, i], u) for i, (n, u) in enumerate(zip(NAMES, units()))},
        "derived": {
            "q": quantity(0.83 + 0.02 * (samples[:, 1] - 0.08), ""),
            "pa": quantity(43 + 100 * (samples[:, 2] + 0.05), "deg"),
            "magnification": quantity(9.4 + 3 * (samples[:, 0] - 1.62), ""),
            "theta_E_effective": quantity(samples[:, 0] * 1.01, "arcsec"),
            "shear": quantity(np.hypot(samples[:, 5], samples[:, 6]), ""),
            **{f"source_mag_{b}": quantity(23.1 + samples[:, 0], "mag") for b in "gri"},
            "lens_mag_g": dict.fromkeys(("p025", "p16", "median", "p84", "p975", "mean", "sigma")) | {"unit": "mag"},
        },
        "reduced_chi2": 1.013,
        "chi2_arc": 1.08,
        "ess_min": 2140.0,
        "rhat_max": 1.0043,
        "n_evaluations": 412000,
        "seconds": 21.4,
        "engine": "torch-emcee",
        "device": "cpu",
        "versions": {"lenspipe": __version__, "numpy": np.__version__},
        "seed": 17,
    }
