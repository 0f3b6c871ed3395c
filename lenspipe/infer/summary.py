"""A fit in numbers: the content of ``fit.json``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.infer.fit import Fit
from lenspipe.infer.light import HeldLight
from lenspipe.types import Cutout

Floats = NDArray[np.float64]


def quantity(draws: Floats, unit: str) -> dict[str, Any]:
    """Median, 68 and 95 % limits, mean and standard deviation of (S,) draws; None where not finite."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return dict.fromkeys(("median", "p16", "p84", "p025", "p975", "mean", "sigma")) | {"unit": unit}
    levels = dict(zip(("p025", "p16", "median", "p84", "p975"), np.percentile(draws, [2.5, 16, 50, 84, 97.5]).tolist()))
    return {**levels, "mean": float(draws.mean()), "sigma": float(draws.std()), "unit": unit}


def orientation_quantity(degrees: Floats, unit: str) -> dict[str, Any]:
    """As `quantity`, for directions that repeat every 180 degrees: statistics about their circular mean.

    The median lies in [0, 180); limits may lie outside, so that they are ordered.
    """
    doubled = np.exp(2j * np.radians(degrees))
    mean = math.degrees(np.angle(doubled.mean()) / 2)
    around = mean + (degrees - mean + 90) % 180 - 90
    shift = 180 * math.floor(np.median(around) / 180)
    return quantity(around - shift, unit)


def summarise(fit: Fit, cutout: Cutout, masks_origin: str, seed: int, versions: dict[str, str]) -> dict[str, Any]:
    """The dict that is written as ``fit.json``; only finite numbers, None where something is unknown."""
    posterior, quality = fit.posterior, fit.chains.diagnostics
    flat = posterior.samples.reshape(-1, len(posterior.names))
    parameters = {n: quantity(flat[:, i], posterior.units[i]) for i, n in enumerate(posterior.names)}
    for i, name in enumerate(posterior.names):
        parameters[name]["best"] = float(posterior.best[i])
    derived = {
        name: (orientation_quantity if name in ("phi", "pa") else quantity)(q.draws, q.unit)
        for name, q in fit.derived.items()
    }
    return {
        "id": cutout.id,
        "status": fit.verdict.status,
        "reasons": [{"code": str(code), "sentence": sentence} for code, sentence in fit.verdict.reasons],
        "sampler_converged": fit.chains.converged,
        "parameters": parameters,
        "derived": derived,
        "reduced_chi2": fit.reduced_chi2,
        "chi2_arc": _finite(fit.chi2_arc),
        "log_likelihood": fit.log_likelihood,
        "lenstronomy_difference": _finite(fit.lenstronomy_difference),
        "held_light": _held(fit.light),
        "theta_E_other_lights": fit.other_lights,
        "ess_min": float(quality.ess.min()),
        "rhat_max": float(quality.rhat.max()),
        "tau_max": float(quality.tau.max()),
        "n_evaluations": fit.evaluations,
        "seconds": round(fit.seconds, 3),
        "cpu_seconds": round(fit.cpu_seconds, 3),
        "search_cpu_seconds": round(fit.search_cpu_seconds, 3),
        "engine": fit.engine,
        "device": fit.device,
        "masks": masks_origin,
        "estimates": fit.prepared.estimate.origin if fit.prepared.estimate else None,
        "bands": list(cutout.bands),
        "ra": _finite(cutout.ra),
        "dec": _finite(cutout.dec),
        "notes": [*cutout.notes, *fit.notes],
        "versions": versions,
        "seed": seed,
    }


def _held(light: HeldLight | None) -> dict[str, float] | None:
    if light is None:
        return None
    center_x, center_y = light.centre
    return {"e1": light.e1, "e2": light.e2, "center_x": center_x, "center_y": center_y}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
