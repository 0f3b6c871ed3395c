"""Critical curves from a magnification map."""

from __future__ import annotations

from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray


def critical_curves(magnification: NDArray[Any], pixel_scale: float) -> list[NDArray[np.float64]]:
    """Polylines (K, 2) of x, y in arcsec where the inverse of a (H, W) signed magnification changes its sign.

    Ray-shoot them to get the caustics. Loops of fewer than 8 vertices are the grid's, not the lens's.
    """
    inverse = 1 / np.where(magnification == 0, np.inf, magnification)
    height, width = inverse.shape
    lines = contour_generator(z=np.clip(inverse, -2, 2)).lines(0.0)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    return [(np.asarray(line) - centre) * pixel_scale for line in lines if len(line) >= 8]
