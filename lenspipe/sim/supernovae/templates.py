"""Supernovae in any band at any redshift, from a few published numbers.

A template is a light curve in one rest-frame band and a colour B-V, both against time. The colour gives a black body,
dimmed in the ultraviolet by a power law as iron lines dim it. So B and V are right by construction; further away (below
350 nm, beyond 800 nm in the rest frame) this is a caricature: no lines, no second maximum in the infrared. Between the
stated points curves are monotone cubics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Floats = NDArray[np.float64]
B_BAND, V_BAND = 440.0, 550.0
"""nm"""
_HC_OVER_K = 1.4387769e7
"""nm K"""
_FAINTEST = 30.0
"""mag below the peak: before the explosion."""


@dataclass(frozen=True)
class Template:
    """A kind of supernova.

    Attributes
    ----------
    wavelength : nm, of the band that the curve is in.
    curve : (days from peak, mag below peak), in the rest frame; before the first point there is nothing, after the
        last the slope goes on.
    colour : (days from peak, B-V, Vega).
    absolute : mean and scatter of the absolute magnitude at peak in that band, without dust.
    blanketing : the ultraviolet falls as (wavelength / 400 nm)^blanketing below 400 nm.
    dust_ratio : A_B / E(B-V) of the dust, or of what acts like it.
    """

    name: str
    wavelength: float
    curve: tuple[tuple[float, float], ...]
    colour: tuple[tuple[float, float], ...]
    absolute: tuple[float, float]
    blanketing: float
    dust_ratio: float

    def magnitude(self, phase: Floats, wavelength: float) -> Floats:
        """AB magnitude at rest-frame `phase` days and `wavelength` nm, relative to the template's band at peak."""
        temperature = _temperature(self._colour(phase))
        there, here = (_spectrum(w, temperature, self.blanketing) for w in (wavelength, self.wavelength))
        below = np.where(phase < self.curve[0][0], _FAINTEST, self._curve(phase))
        return np.asarray(below - 2.5 * np.log10(there / here))

    def extinction(self, wavelength: float, reddening: float) -> float:
        """mag at `wavelength` nm: a power law with A_B / E(B-V) = `dust_ratio` and A_B - A_V = E(B-V)."""
        power = math.log(1 - 1 / self.dust_ratio) / math.log(V_BAND / B_BAND)
        return reddening * self.dust_ratio * (wavelength / B_BAND) ** power

    def _curve(self, phase: Floats) -> Floats:
        return _follow(self._curves[0], self.curve, phase)

    def _colour(self, phase: Floats) -> Floats:
        inside = np.clip(phase, self.colour[0][0], self.colour[-1][0])
        return np.asarray(self._curves[1](inside))

    @cached_property
    def _curves(self) -> tuple[PchipInterpolator, PchipInterpolator]:
        return PchipInterpolator(*zip(*self.curve)), PchipInterpolator(*zip(*self.colour))


def _follow(interpolator: PchipInterpolator, points: tuple[tuple[float, float], ...], phase: Floats) -> Floats:
    """The curve, past its last point with the slope of its last piece."""
    (t0, m0), (t1, m1) = points[-2:]
    late = m1 + (phase - t1) * (m1 - m0) / (t1 - t0)
    return np.asarray(np.where(phase > t1, late, interpolator(np.clip(phase, points[0][0], t1))))


def _temperature(colour: Floats) -> Floats:
    """K, of the black body with that B-V (Vega)."""
    return np.asarray(np.interp(colour, *_BLACK_BODIES))


def _spectrum(wavelength: float, temperature: Floats, blanketing: float) -> Floats:
    """Flux per frequency, any scale."""
    planck = wavelength**-3 / np.expm1(_HC_OVER_K / (wavelength * temperature))
    return np.asarray(planck * min(wavelength / 400.0, 1.0) ** blanketing)


def _black_bodies() -> tuple[Floats, Floats]:
    """B-V (Vega), rising, and K; B-V is 0.11 more in Vega's system than in AB (Blanton & Roweis 2007, AJ 133, 734)."""
    temperature = np.geomspace(1e5, 2e3, 400)
    blue, visual = (_spectrum(band, temperature, 0.0) for band in (B_BAND, V_BAND))
    return 0.11 - 2.5 * np.log10(blue / visual), temperature


_BLACK_BODIES = _black_bodies()

IA = Template(
    name="Ia",
    wavelength=B_BAND,
    # Rise as (t + 18)^2 (Riess et al. 1999, AJ 118, 2675), 1.1 mag down 15 days after peak (Phillips et al. 1999,
    # AJ 118, 1766), 0.0155 mag a day from day 40 (Leibundgut et al. 1991, A&AS 89, 537).
    curve=(
        *((-17.0, 5.45), (-15.0, 3.07), (-13.0, 1.96), (-10.0, 0.94), (-7.0, 0.45), (-4.0, 0.13), (0.0, 0.0)),
        *((4.0, 0.12), (7.0, 0.34), (10.0, 0.65), (15.0, 1.10), (20.0, 1.72), (25.0, 2.27), (30.0, 2.65)),
        *((40.0, 3.05), (60.0, 3.36), (80.0, 3.67)),
    ),
    # Phillips et al. 1999 at peak; from day 35 the relation of Lira, 0.725 - 0.0118 (t - 60) (their eq. 1).
    colour=(
        *((-15.0, 0.1), (-10.0, 0.0), (-5.0, -0.07), (0.0, -0.07), (5.0, 0.05), (10.0, 0.25), (15.0, 0.55)),
        *((20.0, 0.85), (28.0, 1.08), (35.0, 1.02), (60.0, 0.725), (90.0, 0.37)),
    ),
    absolute=(-19.05, 0.10),  # Betoule et al. 2014, A&A 568, A22, for H0 = 70
    blanketing=4.6,  # makes U-B -0.4 (Vega) at peak
    dust_ratio=3.1,  # their beta: colour of any origin
)
II_P = Template(
    name="II-P",
    wavelength=V_BAND,
    # Rise in a week (Gall et al. 2015, A&A 582, A3); plateau of 100 days falling by 1.3 mag in 100 days, then cobalt
    # (Anderson et al. 2014, ApJ 786, 67).
    curve=(
        *((-8.0, 3.0), (-6.0, 1.0), (-3.0, 0.2), (0.0, 0.0), (10.0, 0.06), (30.0, 0.25), (50.0, 0.45), (70.0, 0.68)),
        *((85.0, 0.95), (95.0, 1.4), (105.0, 2.4), (115.0, 2.75), (150.0, 3.1), (200.0, 3.59)),
    ),
    colour=(
        *((-8.0, -0.2), (0.0, 0.0), (10.0, 0.3), (20.0, 0.55), (40.0, 0.9), (70.0, 1.2), (90.0, 1.35)),
        *((105.0, 1.5), (150.0, 1.3)),
    ),
    absolute=(-16.75, 0.98),  # Richardson et al. 2014, AJ 147, 118, table 1
    blanketing=2.0,
    dust_ratio=4.1,
)
I_BC = Template(
    name="Ib/c",
    wavelength=V_BAND,
    # Decline of 0.9 mag in 15 days and colours of Drout et al. 2011, ApJ 741, 97.
    curve=(
        *((-18.0, 4.0), (-15.0, 2.0), (-10.0, 0.8), (-5.0, 0.2), (0.0, 0.0), (5.0, 0.13), (10.0, 0.45), (15.0, 0.90)),
        *((20.0, 1.28), (30.0, 1.75), (40.0, 2.0), (60.0, 2.4), (100.0, 3.1)),
    ),
    colour=(
        *((-18.0, 0.1), (-10.0, 0.25), (0.0, 0.4), (5.0, 0.6), (10.0, 0.85), (20.0, 1.1), (40.0, 1.0), (100.0, 0.8)),
    ),
    absolute=(-17.95, 1.15),  # Richardson et al. 2014, mean of Ib and Ic, 0.4 mag brighter in V than in B
    blanketing=4.6,
    dust_ratio=4.1,
)
II_N = Template(
    name="IIn",
    wavelength=V_BAND,
    # Slow and blue (Kiewe et al. 2012, ApJ 744, 10).
    curve=(
        *((-20.0, 3.0), (-15.0, 1.4), (-10.0, 0.6), (-5.0, 0.15), (0.0, 0.0), (20.0, 0.25), (50.0, 0.9)),
        *((100.0, 1.9), (150.0, 2.7)),
    ),
    colour=((-20.0, -0.1), (0.0, 0.05), (20.0, 0.2), (50.0, 0.4), (100.0, 0.6)),
    absolute=(-18.53, 1.36),  # Richardson et al. 2014
    blanketing=1.0,
    dust_ratio=4.1,
)
TEMPLATES = (IA, II_P, I_BC, II_N)
"""A file's ``truth/sn_template`` counts through these."""
_CORE_COLLAPSE = (0.55, 0.36, 0.09)
"""Of II-P with II-L, of Ib, Ic and IIb, of IIn, in a volume (Smith et al. 2011, MNRAS 412, 1522)."""


@dataclass(frozen=True)
class Supernova:
    """One supernova at `redshift`; `absolute` is its peak in the template's band, `modulus` the distance modulus."""

    template: Template
    redshift: float
    modulus: float
    absolute: float
    stretch: float
    reddening: float

    def magnitude(self, days: Floats, wavelength: float) -> Floats:
        """AB magnitude without lensing, `days` after its peak in the observer's frame, at observed `wavelength` nm."""
        rest = wavelength / (1 + self.redshift)
        shape = self.template.magnitude(days / (1 + self.redshift) / self.stretch, rest)
        # Per frequency, light of a source at z is brighter by 1 + z than its luminosity distance says.
        at_distance = self.absolute + self.modulus - 2.5 * math.log10(1 + self.redshift)
        return np.asarray(at_distance + shape + self.template.extinction(rest, self.reddening))


def draw_supernova(rng: Generator, kind: str, redshift: float, modulus: float) -> Supernova:
    """One of `kind` ``Ia`` or ``CC``, with its own brightness, stretch and colour.

    Ia: Betoule et al. 2014, stretch x1 and colour of scatter 1 and 0.1; s = 0.98 + 0.091 x1 (Guy et al. 2007,
    A&A 466, 11).
    Core collapse: dust of mean E(B-V) = 0.1, exponential.
    """
    if kind == "Ia":
        x1, colour = rng.normal(0, 1), rng.normal(0, 0.1)
        absolute = rng.normal(*IA.absolute) - 0.141 * x1
        return Supernova(IA, redshift, modulus, float(absolute), float(np.clip(0.98 + 0.091 * x1, 0.7, 1.3)), colour)
    template = TEMPLATES[1 + int(rng.choice(3, p=_CORE_COLLAPSE))]
    return Supernova(
        template,
        redshift,
        modulus,
        absolute=float(rng.normal(*template.absolute)),
        stretch=float(np.exp(rng.normal(0, 0.12))),
        reddening=float(rng.exponential(0.1)),
    )
