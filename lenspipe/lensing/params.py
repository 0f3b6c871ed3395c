"""Parameters of the profiles: names and units, in lenstronomy's order, without the linear amplitude."""

from __future__ import annotations

UNITS = {
    "theta_E": "arcsec",
    "gamma": "",
    "e1": "",
    "e2": "",
    "s_scale": "arcsec",
    "center_x": "arcsec",
    "center_y": "arcsec",
    "gamma1": "",
    "gamma2": "",
    "kappa": "",
    "R_sersic": "arcsec",
    "n_sersic": "",
    "sigma": "arcsec",
}
MASS: dict[str, tuple[str, ...]] = {
    "SIE": ("theta_E", "e1", "e2", "center_x", "center_y"),
    "NIE": ("theta_E", "e1", "e2", "s_scale", "center_x", "center_y"),
    "SIS": ("theta_E", "center_x", "center_y"),
    "EPL": ("theta_E", "gamma", "e1", "e2", "center_x", "center_y"),
    "SHEAR": ("gamma1", "gamma2"),
    "CONVERGENCE": ("kappa",),
}
LIGHT: dict[str, tuple[str, ...]] = {
    "SERSIC_ELLIPSE": ("R_sersic", "n_sersic", "e1", "e2", "center_x", "center_y"),
    "SERSIC": ("R_sersic", "n_sersic", "center_x", "center_y"),
    "GAUSSIAN_ELLIPSE": ("sigma", "e1", "e2", "center_x", "center_y"),
}
FIELD = ("SHEAR", "CONVERGENCE")
"""Mass outside the lens: it has no place of its own."""


def without_band(name: str) -> str:
    """``lens_light_R_sersic_g`` -> ``lens_light_R_sersic``: a parameter's name without its band, if it has one."""
    for parameter in UNITS:
        head, found, band = name.rpartition(f"{parameter}_")
        if found and band and (not head or head.endswith("_")):
            return head + parameter
    return name
