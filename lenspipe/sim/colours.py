"""Magnitudes of kinds of objects at any wavelength, as colours seen or as spectra at rest."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lenspipe.config import Config
from lenspipe.sim.survey import Survey


class Colours(Config):
    """AB magnitudes of a kind of object relative to its reference magnitude; between the nodes, and flat beyond them,
    they are interpolated in wavelength."""

    wavelength: tuple[float, ...] = Field(
        (), description="nm, rising; empty: one number for each of the survey's bands"
    )
    offset: tuple[float, ...] = Field(description="mag")
    scatter: tuple[float, ...] = Field(description="mag, Gaussian")

    @model_validator(mode="after")
    def _consistent(self) -> Colours:
        nodes = len(self.wavelength or self.offset)
        if not len(self.offset) == len(self.scatter) == nodes:
            raise ValueError("wavelength, offset and scatter must be as many")
        if any(b <= a for a, b in zip(self.wavelength, self.wavelength[1:])):
            raise ValueError("wavelength must rise")
        return self

    def at(self, wavelength: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(B,) offset and scatter; ValueError where nodes and bands are not as many and no wavelengths are given."""
        if self.wavelength:
            offset, scatter = (np.interp(wavelength, self.wavelength, node) for node in (self.offset, self.scatter))
            return np.asarray(offset), np.asarray(scatter)
        if len(self.offset) != len(wavelength):
            raise ValueError("must have one number for each of the survey's bands, or wavelengths")
        return np.array(self.offset), np.array(self.scatter)


# At 481, 642 and 781 nm, the g, r and i of DECam, and beyond them what passively evolving and star-forming galaxies
# of redshift 0.5 and 1.5 have, roughly.
_NODES = (367.0, 481.0, 642.0, 781.0, 917.0, 1085.0, 1375.0, 1773.0, 2762.0, 4421.0)
RED = Colours(
    wavelength=_NODES,
    offset=(2.9, 1.55, 0.0, -0.62, -0.95, -1.2, -1.5, -1.8, -1.7, -1.2),
    scatter=(0.2, 0.12, 0.0, 0.06, 0.07, 0.08, 0.1, 0.1, 0.12, 0.15),
)
BLUE = Colours(
    wavelength=_NODES,
    offset=(0.5, 0.25, 0.0, -0.12, -0.3, -0.55, -0.75, -0.9, -1.0, -0.9),
    scatter=(0.2, 0.15, 0.0, 0.10, 0.12, 0.15, 0.2, 0.2, 0.25, 0.3),
)
FIELD = Colours(
    wavelength=_NODES,
    offset=(1.3, 0.7, 0.0, -0.35, -0.55, -0.75, -1.0, -1.2, -1.2, -1.0),
    scatter=(0.5, 0.4, 0.0, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
)


def magnitudes(rng: Generator, survey: Survey, reference: float, colours: Colours) -> NDArray[np.float64]:
    """(B,) AB mag of an object of the magnitude `reference` at the wavelength of colour 0."""
    return reference + rng.normal(*colours.at(survey.per_band("wavelength")))


# AB magnitude at rest relative to that at 620 nm, at nodes in nm; flat beyond them. Chosen by hand, coarse: near the
# colours of an old and of a star-forming galaxy (Coleman, Wu & Weedman 1980, ApJS 43, 393, E and Im), and the track of
# luminous red galaxies (Eisenstein et al. 2001, AJ 122, 2267).
_REST = (91, 121, 150, 200, 280, 300, 355, 390, 410, 470, 550, 620, 750, 890, 1020, 1250, 1650, 2200, 3500)
OLD = (9, 7.5, 6.5, 5.5, 4.3, 3.3, 2.3, 1.9, 1.4, 0.8, 0.28, 0, -0.4, -0.7, -0.95, -1.2, -1.5, -1.25, -0.5)
YOUNG = (6, 0.9, 0.75, 0.75, 0.7, 0.68, 0.62, 0.4, 0.3, 0.25, 0.1, 0, -0.1, -0.15, -0.17, -0.2, -0.2, -0.1, 0.3)
UV, VISUAL = 150.0, 620.0
"""nm at rest, of the absolute magnitudes of young and old galaxies."""


def redshifted(
    spectrum: tuple[float, ...], z: float, wavelength: NDArray[np.float64], reference: float
) -> NDArray[np.float64]:
    """(B,) apparent less absolute magnitude, apart from the distance modulus.

    The absolute one is at the `reference` wavelength at rest; 2.5 log10(1 + z) comes from the narrower band at rest.
    """
    seen = np.interp(wavelength / (1 + z), _REST, spectrum)
    return np.asarray(seen - np.interp(reference, _REST, spectrum) - 2.5 * np.log10(1 + z))
