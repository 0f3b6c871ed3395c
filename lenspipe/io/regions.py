"""Regions drawn by hand: a subset of DS9's region format (https://ds9.si.edu/doc/ref/region.html)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lenspipe.config import nearest
from lenspipe.errors import LenspipeError

_NUMBERS = {"circle": 3, "ellipse": 5, "box": 5, "polygon": None}
_TEXT = re.compile(r"([+-]?)\s*([a-z]+)\s*\(([^()]*)\)")
_SYSTEMS = frozenset(
    ("image", "physical", "fk4", "b1950", "fk5", "j2000", "icrs", "galactic", "ecliptic", "wcs", "linear", "amplifier",
     "detector")
)  # fmt: skip


@dataclass(frozen=True)
class Region:
    """``circle(x, y, r)``, ``ellipse(x, y, a, b, angle)``, ``box(x, y, width, height, angle)`` or
    ``polygon(x1, y1, x2, y2, ...)``.

    Angles are degrees from +x towards +y; one that is `excluded` (``-circle(...)``) is cut out of the others.
    """

    shape: str
    numbers: tuple[float, ...]
    excluded: bool = False

    def holds(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Whether the points lie inside, `x` and `y` broadcast against each other."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        if self.shape == "polygon":
            return _in_polygon(x, y, np.reshape(self.numbers, (-1, 2)))
        x0, y0, *sizes = self.numbers
        if self.shape == "circle":
            return np.asarray(np.hypot(x - x0, y - y0) <= sizes[0])
        a, b, angle = sizes[0], sizes[1], np.radians(sizes[2])
        u = np.cos(angle) * (x - x0) + np.sin(angle) * (y - y0)
        v = np.cos(angle) * (y - y0) - np.sin(angle) * (x - x0)
        if self.shape == "ellipse":
            return np.asarray((u / a) ** 2 + (v / b) ** 2 <= 1)
        return np.asarray((np.abs(u) <= a / 2) & (np.abs(v) <= b / 2))


def parse_region(text: str, where: str) -> Region:
    """One region; `LenspipeError` says what is wrong with it."""
    match = _TEXT.fullmatch(text.strip().lower())
    if not match:
        raise LenspipeError(f"{where}: {text!r} is no region such as circle(0.5, -1.2, 0.4).")
    sign, shape, inner = match.groups()
    if shape not in _NUMBERS:
        raise LenspipeError(f"{where}: {shape!r} is not among the shapes{nearest(shape, list(_NUMBERS))}")
    try:
        numbers = tuple(float(part) for part in re.split(r"[\s,]+", inner.strip()))
    except ValueError:
        raise LenspipeError(f"{where}: {text!r}: its arguments must be plain numbers.") from None
    wanted = _NUMBERS[shape]
    if wanted is None and (len(numbers) < 6 or len(numbers) % 2):
        raise LenspipeError(f"{where}: {text!r}: a polygon needs three points or more, each x and y.")
    if wanted is not None and len(numbers) != wanted:
        raise LenspipeError(f"{where}: {text!r}: {shape} takes {wanted} numbers, here are {len(numbers)}.")
    sizes = numbers[2 : 4 if wanted == 5 else 3] if wanted else ()
    if not np.isfinite(numbers).all() or any(size <= 0 for size in sizes):
        raise LenspipeError(f"{where}: {text!r}: sizes must be above 0.")
    return Region(shape, numbers, sign == "-")


def read_regions(path: Path) -> list[Region]:
    """The regions of a DS9 file in image coordinates: pixels, the first one's centre at (1, 1)."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LenspipeError(f"{path}: cannot be read ({error}).") from None
    system, found = "", []
    for number, line in enumerate(lines, 1):
        for part in re.sub(r"#.*", "", line).split(";"):
            word = part.strip().lower()
            if not word or word.startswith("global"):
                continue
            if word in _SYSTEMS:
                system = word
                continue
            if system != "image":
                said = f"in {system}" if system else "in no coordinates that it names"
                raise LenspipeError(f"{path}, line {number}: a region {said}; save it from DS9 in image coordinates.")
            found.append(parse_region(word, f"{path}, line {number}"))
    if not found:
        raise LenspipeError(f"{path}: holds no region.")
    return found


def rasterise(regions: Sequence[Region], x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
    """Which points lie in any of the regions and in none that is excluded; all are in where all are excluded."""
    shape = np.broadcast_shapes(np.shape(x), np.shape(y))
    inside = np.full(shape, all(region.excluded for region in regions))
    for region in regions:
        if not region.excluded:
            inside |= region.holds(x, y)
    for region in regions:
        if region.excluded:
            inside &= ~region.holds(x, y)
    return inside


def _in_polygon(x: NDArray[np.float64], y: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """By the number of edges that a ray towards +x crosses."""
    inside = np.zeros(x.shape, dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0)):
        if y1 == y2:
            continue
        crosses = (y1 > y) != (y2 > y)
        inside ^= crosses & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return inside
