"""How objects are drawn: again and again until the cuts keep one, and by packages that draw from NumPy's generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.random import Generator

from lenspipe.errors import LenspipeError

Drawn = TypeVar("Drawn")


def keep_drawing(draw: Callable[[], Drawn], cuts: Mapping[str, Callable[[Drawn], bool]], attempts: int) -> Drawn:
    """The first of up to `attempts` draws that passes all cuts, which are asked in their order.

    Raises
    ------
    LenspipeError : none did; it names the cut that refused all that came so far, and how many each refused.
    """
    refused = dict.fromkeys(cuts, 0)
    for _ in range(attempts):
        found = draw()
        reason = next((name for name, passes in cuts.items() if not passes(found)), None)
        if reason is None:
            return found
        refused[reason] += 1
    last = [name for name, count in refused.items() if count][-1]
    counts = "; ".join(f"{name}: {count} failed" for name, count in refused.items())
    raise LenspipeError(f"none of {attempts} draws passed the cuts ({counts}): widen {last} or what is drawn.")


@contextmanager
def numpy_seeded(rng: Generator) -> Iterator[None]:
    """For packages that draw from NumPy's global generator: a seed of this object's, and the old state back."""
    before = np.random.get_state()
    np.random.seed(rng.integers(2**32))
    try:
        yield
    finally:
        np.random.set_state(before)
