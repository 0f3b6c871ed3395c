"""How many candidates find room on a device together.

Apart from a call's temporaries, which the budget bounds, each candidate keeps its images there, and while its request
is served the residuals of its starts or the steps of its walkers.
"""

from __future__ import annotations

from lenspipe.infer.config import FitConfig
from lenspipe.infer.together import ROUND

BUDGET = {"cpu": 2e7, "cuda": 4e9}
"""Bytes of temporaries: what a CPU's caches nearly hold, what keeps a GPU busy."""
MOST = 256
"""Candidates at once: 80 vectors of each keep a GPU busy, and more would only wait for their host."""
_SHARE = 0.8
"""Of the free memory; the rest is the libraries' own and what lies between blocks."""
_DOUBLE = 8
_IMAGES, _COPIES, _PARAMETERS = 10, 4, 25
"""Images of a candidate (data, weights, PSF and its transform); copies of residuals alive while starts climb; and
parameters, more than most scenes have."""


def kept(shape: tuple[int, int], bands: int, config: FitConfig) -> float:
    """Bytes that a candidate with images of `bands` x `shape` pixels keeps on the device, at most."""
    pixels = bands * shape[0] * shape[1]
    sampler = config.sampler
    walkers = sampler.ensembles * max(sampler.walkers, 2 * _PARAMETERS)
    climbing = _COPIES * config.search.starts * (pixels + _PARAMETERS)
    walking = 2 * ROUND * walkers * (_PARAMETERS + 1)
    return _DOUBLE * (_IMAGES * pixels + max(climbing, walking))


def budget(free: float, wanted: float | None, device: str) -> float:
    """Bytes for temporaries: what is `wanted`, else the device's `BUDGET`, and of a GPU at most a quarter of what is
    `free`."""
    if wanted is not None:
        return wanted
    return min(BUDGET[device], free / 4) if device == "cuda" else BUDGET[device]


def at_once(free: float, temporaries: float, shape: tuple[int, int], bands: int, config: FitConfig) -> int:
    """Candidates for which `free` bytes have room beside the `temporaries`: 1 to `MOST`."""
    room = _SHARE * free - temporaries
    return int(min(max(room / kept(shape, bands, config), 1), MOST))
