"""Galaxies that look like lenses and are none: rings, mergers, discs from the side; and trails that are no light."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lenspipe.sim.scene import Light, Streak, ellipticity

Magnitudes = NDArray[np.float64]
_KNOTS = 28
"""Of a ring: so close that they run together."""


def ring(rng: Generator, old: Magnitudes, young: Magnitudes, x: float, y: float) -> tuple[Light, ...]:
    """An old bulge in a ring of young stars with knots, as after a collision; `old` and `young` in (B,) mag."""
    radius, q, turn = rng.uniform(0.9, 2.2), rng.uniform(0.5, 1.0), rng.uniform(0, math.pi)
    width = radius * rng.uniform(0.12, 0.25)
    uneven = rng.dirichlet(np.full(_KNOTS, 3.0))
    faint = rng.uniform(0.3, 1.8)
    knots = []
    for share, angle in zip(uneven, np.linspace(0, 2 * math.pi, _KNOTS, endpoint=False)):
        u, v = radius * math.cos(angle), q * radius * math.sin(angle)
        place = (u * math.cos(turn) - v * math.sin(turn) + x, u * math.sin(turn) + v * math.cos(turn) + y)
        knots.append(Light("lens", young + faint - 2.5 * math.log10(share), *place, radius=width, n_sersic=0.8))
    e1, e2 = ellipticity(rng, (0.6, 1.0))
    return (Light("lens", old, x, y, radius * rng.uniform(0.2, 0.45), rng.uniform(1.5, 4.0), e1, e2), *knots)


def merger(rng: Generator, old: Magnitudes, young: Magnitudes, x: float, y: float) -> tuple[Light, ...]:
    """Two galaxies that touch, and a tidal tail of one that bends about the other."""
    apart, side = rng.uniform(0.7, 1.8), rng.uniform(0, 2 * math.pi)
    second = (x + apart * math.cos(side), y + apart * math.sin(side))
    shapes = [ellipticity(rng, (0.4, 0.95)) for _ in range(2)]
    first = Light("lens", old, x, y, rng.uniform(0.5, 1.1), rng.uniform(1.0, 4.0), *shapes[0])
    other = Light(
        "lens", young + rng.uniform(-0.3, 1.2), *second, rng.uniform(0.4, 0.9), rng.uniform(0.8, 2.0), *shapes[1]
    )
    sweep, reach = rng.uniform(0.8, 2.2) * rng.choice([-1, 1]), rng.uniform(1.2, 2.4)
    tail = []
    for step in np.linspace(0.15, 1, 12):
        angle, r = side + sweep * step, apart + (reach - apart) * step
        place = (x + r * math.cos(angle), y + r * math.sin(angle))
        tail.append(Light("lens", young + 3.6 + 1.5 * step, *place, radius=0.3, n_sersic=0.8))
    return first, other, *tail


def edge_on(rng: Generator, old: Magnitudes, young: Magnitudes, x: float, y: float) -> tuple[Light, ...]:
    """A thin disc seen from the side, with a bulge."""
    q, turn = rng.uniform(0.1, 0.25), rng.uniform(0, 2 * math.pi)
    modulus, radius = (1 - q) / (1 + q), rng.uniform(1.0, 2.6)
    disc = Light("lens", young, x, y, radius * math.sqrt(q), 1.0, modulus * math.cos(turn), modulus * math.sin(turn))
    bulge = Light("lens", old + rng.uniform(0.5, 2.5), x, y, radius * rng.uniform(0.1, 0.25), 2.0)
    return disc, bulge


def streaks(rng: Generator, pixel_scale: float, half: float, bands: int) -> tuple[Streak, ...]:
    """One to three of: a cosmic ray in one band, a satellite's trail in one band, a bleeding column in all of them."""
    found = []
    for _ in range(rng.integers(1, 4)):
        x, y = (float(v) for v in rng.uniform(-0.6 * half, 0.6 * half, 2))
        kind, angle, band = rng.integers(3), rng.uniform(0, math.pi), int(rng.integers(bands))
        if kind == 0:
            length, peak = rng.uniform(1, 12) * pixel_scale, rng.uniform(10, 200)
            found.append(Streak(x, y, angle, length, 0.45 * pixel_scale, peak, band))
        elif kind == 1:
            found.append(Streak(x, y, angle, 4 * half, rng.uniform(1, 2.5) * pixel_scale, rng.uniform(3, 40), band))
        else:
            found.append(Streak(x, y, math.pi / 2, 4 * half, 0.7 * pixel_scale, rng.uniform(10, 300)))
    return tuple(found)
