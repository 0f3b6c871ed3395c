"""The eight flips and right-angle turns of a square: of images, and of a deflector's parameters along with them."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lenspipe.types import DEFLECTOR


class Turn(NamedTuple):
    """Rows reversed, columns reversed, and then rows and columns exchanged; each or not."""

    rows: bool = False
    columns: bool = False
    transpose: bool = False

    def image(self, pixels: Any) -> Any:
        """(..., H, W) array or tensor, turned."""
        axes = tuple(axis for axis, reverse in ((-2, self.rows), (-1, self.columns)) if reverse)
        if axes:
            pixels = np.flip(pixels, axes) if isinstance(pixels, np.ndarray) else pixels.flip(axes)
        return pixels.swapaxes(-1, -2) if self.transpose else pixels

    def matrix(self) -> NDArray[np.float64]:
        """(7, 7) signed permutation that takes parameters, ordered as `DEFLECTOR`, to those of the turned image.

        Ellipticity and shear have two components, |e| cos 2 phi and |e| sin 2 phi: a reflection of x or of y changes
        the sign of the second, an exchange of x and y that of the first.
        """
        place = {name: i for i, name in enumerate(DEFLECTOR)}
        signs = np.ones(len(DEFLECTOR))
        for reverse, name in ((self.columns, "center_x"), (self.rows, "center_y")):
            if reverse:
                signs[[place[name], place["e2"], place["gamma2"]]] *= -1
        if self.transpose:
            signs[[place["e1"], place["gamma1"]]] *= -1
        order = np.arange(len(DEFLECTOR))
        if self.transpose:
            order[[place["center_x"], place["center_y"]]] = place["center_y"], place["center_x"]
        return np.asarray((np.eye(len(DEFLECTOR)) * signs)[order])


TURNS = tuple(Turn(*flags) for flags in product((False, True), repeat=3))
