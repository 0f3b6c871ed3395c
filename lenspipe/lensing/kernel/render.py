"""Noiseless images of many objects on one core: render.h, compiled beside the likelihood."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.lensing.kernel import _chosen, _library

REACH = 256
"""Pixels that a Gaussian PSF may reach; ``kRenderReach``."""
_int, _pointer = ctypes.c_int, ctypes.c_void_p


class _Job(ctypes.Structure):
    """`lenspipe::RenderJob` of render_job.h."""

    _fields_ = [
        ("objects", ctypes.c_long),
        *((name, _int) for name in ("itemsize", "height", "width", "supersampling", "bands", "layers")),
        *((name, _pointer) for name in ("x", "y", "first", "profiles", "layer", "plane", "flux", "planes", "sigma")),
        ("out", _pointer),
    ]


@cache
def available() -> bool:
    """Whether the compiled library is there and holds the renderer of this version."""
    library = _library()
    if library is None or _chosen() is None or not hasattr(library, "lenspipe_render_speaks"):
        return False
    library.lenspipe_render_speaks.restype = ctypes.c_long
    library.lenspipe_render.argtypes = [ctypes.c_char_p, _pointer]
    library.lenspipe_render.restype = None
    return bool(library.lenspipe_render_speaks() == ctypes.sizeof(_Job))


def render(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    supersampling: int,
    first: NDArray[np.int64],
    profiles: NDArray[np.float64],
    layer: NDArray[np.intc],
    plane: NDArray[np.intc],
    flux: NDArray[np.float64],
    planes: NDArray[np.float64],
    sigma: NDArray[np.float64] | None,
    layers: int,
    dtype: type[np.floating],
) -> NDArray[np.floating]:
    """(N, L, B, H, W), `dtype` float32 or float64; of the arithmetic but for the rays, which are
    in float64. No object depends on another.

    Parameters
    ----------
    x, y : (W s,) and (H s,) arcsec, s = `supersampling`.
    first : (N + 1,), the lights of object i are ``first[i]`` to ``first[i + 1]`` of the K.
    profiles : (K, 9) R_sersic, n_sersic, e1, e2, center_x, center_y, arms, pitch, phase.
    layer : (K,) to which of L layers each light belongs.
    plane : (K,) 0 not lensed, 1 behind the lens, 2 behind the first source too.
    flux : (K, B), the factor of the profile of unit amplitude.
    planes : (N, 13) theta_E, e1, e2, center_x, center_y of the lens, gamma1, gamma2; the factor by which it bends light
        from the second plane more than from the first; the same five of the deflector in the first source.
    sigma : (N, B) of Gaussian PSFs in pixels, below `REACH` / 4; None: not blurred.
    """
    name = _chosen()
    if name is None or not available():
        raise RuntimeError("the compiled renderer is not available")
    n, bands, s = len(first) - 1, flux.shape[1], supersampling
    held = {
        "x": x,
        "y": y,
        "first": first,
        "profiles": profiles,
        "layer": layer,
        "plane": plane,
        "flux": flux,
        "planes": planes,
        "sigma": sigma,
    }
    kinds: dict[str, Any] = {"first": ctypes.c_long, "layer": np.intc, "plane": np.intc}
    arrays = {
        key: np.ascontiguousarray(a, dtype=kinds.get(key, np.float64)) for key, a in held.items() if a is not None
    }
    if sigma is not None and 4 * sigma.max(initial=0) + 1 > REACH:
        raise ValueError(f"a PSF of sigma {sigma.max()} pixels is too wide")
    height, width = len(y) // s, len(x) // s
    out = np.empty((n, layers, bands, height, width), dtype=dtype)
    job = _Job(
        objects=n,
        itemsize=out.itemsize,
        height=height,
        width=width,
        supersampling=s,
        bands=bands,
        layers=layers,
        out=out.ctypes.data,
        **{key: a.ctypes.data for key, a in arrays.items()},
    )
    library = _library()
    assert library is not None
    library.lenspipe_render(name.encode(), ctypes.byref(job))
    return out
