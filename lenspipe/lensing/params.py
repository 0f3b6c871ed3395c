"""Parameters of the profiles: names and units, in lenstronomy's order, without the linear amplitude."""

from __future__ import annotations

UNITS = {
    "theta_E": "arcsec",
    "e1": "",
    "e2": "",
    "center_x": "arcsec",
    "center_y": "arcsec",
    "gamma1": "",
    "gamma2": "",
    "R_sersic": "arcsec",
    "n_sersic": "",
}
MASS: dict[str, tuple[str, ...]] = {
    "SIE": ("theta_E", "e1", "e2", "center_x", "center_y"),
    "SHEAR": ("gamma1", "gamma2"),
}
LIGHT: dict[str, tuple[str, ...]] = {"SERSIC_ELLIPSE": ("R_sersic", "n_sersic", "e1", "e2", "center_x", "center_y")}
