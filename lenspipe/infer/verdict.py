"""``good``, ``suspect`` or ``failed``, and why: built from what tells right fits from wrong ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import Reason
from lenspipe.infer.config import VerdictConfig

Floats = NDArray[np.float64]

FAILING = frozenset({Reason.LENSTRONOMY_DISAGREES, Reason.ARC_TOO_FAINT})


@dataclass(frozen=True)
class Evidence:
    """What the verdict looks at. A number that is NaN is not known and no reason.

    Attributes
    ----------
    at_bound : names of parameters whose optimum lies at a bound of its prior.
    searched : smallest and largest Einstein radius that was searched, arcsec.
    magnification, theta_E, source_radius : of the best model; arcsec.
    near_best : (M,) Einstein radii of the distinct optima nearly as good as the best, itself included.
    mass_light : |e_mass - e_light|, NaN without lens light.
    other_lights : theta_E with other models of the lens light.
    arc_signal : S/N of the modelled arc, all its pixels together.
    mask_overlap : share of the masked arc's pixels where the model has an arc; NaN without masks.
    converged : the sampler met its rule.
    lenstronomy_difference : |our logL - lenstronomy's| over max(1, |logL| / 1000); NaN where it cannot be asked.
    """

    at_bound: tuple[str, ...]
    searched: tuple[float, float]
    magnification: float
    theta_E: float
    source_radius: float
    near_best: Floats
    mass_light: float
    other_lights: dict[str, float]
    arc_signal: float
    mask_overlap: float
    converged: bool
    lenstronomy_difference: float


@dataclass(frozen=True)
class Verdict:
    """Status and its reasons, each with the figures that gave it."""

    status: str
    reasons: tuple[tuple[Reason, str], ...]


def judge(seen: Evidence, limits: VerdictConfig) -> Verdict:
    """Every criterion that is not met is a reason; `FAILING` ones make the fit ``failed``, others ``suspect``."""
    reasons: list[tuple[Reason, str]] = []

    def unless(fine: bool, reason: Reason, detail: str) -> None:
        if not fine:
            reasons.append((reason, f"{reason.sentence} {detail}"))

    spread = float(np.ptp(seen.near_best) / seen.theta_E)
    smallest, largest = seen.searched
    unless(
        not (seen.theta_E < smallest or seen.theta_E > largest),
        Reason.PARAMETER_AT_BOUND,
        f"(theta_E {seen.theta_E:.2f}, searched from {smallest:.2f} to {largest:.2f} arcsec)",
    )
    unless(not seen.at_bound, Reason.PARAMETER_AT_BOUND, f"({', '.join(seen.at_bound)})")
    unless(
        not seen.magnification < (limits.magnification or 1),
        Reason.LOW_MAGNIFICATION,
        f"(magnification {seen.magnification:.2f}, wanted {limits.magnification or 1:g})",
    )
    unless(
        not seen.source_radius > limits.source_radius * seen.theta_E,
        Reason.SOURCE_TOO_LARGE,
        f"(half-light radius {seen.source_radius:.2f} arcsec, Einstein radius {seen.theta_E:.2f} arcsec)",
    )
    unless(
        not spread > limits.start_spread,
        Reason.STARTS_DISAGREE,
        f"(from {seen.near_best.min():.2f} to {seen.near_best.max():.2f} arcsec)",
    )
    others = [seen.theta_E, *seen.other_lights.values()]
    unless(
        not max(others) - min(others) > limits.light_spread * seen.theta_E,
        Reason.LIGHT_MODELS_DISAGREE,
        "(" + ", ".join(f"{theta_E:.2f} arcsec with {name}" for name, theta_E in seen.other_lights.items()) + ")",
    )
    unless(
        not seen.mass_light > limits.mass_light,
        Reason.MASS_LIGHT_MISALIGNED,
        f"(|e_mass - e_light| = {seen.mass_light:.2f})",
    )
    faint = Reason.ARC_FAINT if seen.arc_signal >= limits.least_signal else Reason.ARC_TOO_FAINT
    unless(seen.arc_signal >= limits.arc_signal, faint, f"(total S/N {seen.arc_signal:.1f})")
    unless(
        not seen.mask_overlap < limits.mask_overlap,
        Reason.MASK_DISAGREES,
        f"({100 * seen.mask_overlap:.0f} % of the segmented arc is in the model)",
    )
    unless(seen.converged, Reason.NOT_CONVERGED, "")
    unless(
        not seen.lenstronomy_difference > 1e-6,
        Reason.LENSTRONOMY_DISAGREES,
        f"(scaled difference {seen.lenstronomy_difference:.1e})",
    )
    codes = {reason for reason, _ in reasons}
    status = "failed" if codes & FAILING else "suspect" if codes else "good"
    return Verdict(status, tuple((r, d.strip()) for r, d in reasons))
