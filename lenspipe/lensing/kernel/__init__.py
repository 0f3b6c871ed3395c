"""The compiled likelihood: the arithmetic of `lenspipe.infer.likelihood` on one core, several times faster than torch.

A shared library built by ``setup.py`` where there is a C++ compiler. It holds the same source compiled for AVX-512,
AVX2 and the baseline of the target; the widest one the CPU runs is taken, or the one that the environment variable
``LENSPIPE_KERNEL`` names (``avx512``, ``avx2``, ``portable``, or ``off``).
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lenspipe.lensing.grid import Patch
from lenspipe.lensing.psf import Blur, GaussianBlur
from lenspipe.lensing.scene import Scene

INSTRUCTION_SETS = ("avx512", "avx2", "portable")
MAX_LAYERS = 8
"""Light components and sky that the kernel holds."""
SUBPIXELS = 16
"""A refined pixel's subpixels fill whole registers."""
MAX_KERNEL = 31
"""Pixels across a PSF kernel; beyond that a Fourier transform is faster."""
_ABI = 3
"""``kAbi`` of kernel.h: a library with another one was built from other sources than these, and is not called."""
_MASS = {"SIE": 0, "SHEAR": 1, "NIE": 2, "SIS": 3, "EPL": 4, "CONVERGENCE": 5}
_LIGHT = {"SERSIC_ELLIPSE": 0, "SERSIC": 1, "GAUSSIAN_ELLIPSE": 2}
"""The numbers of evaluate.h."""

_log = logging.getLogger(__name__)
_int, _pointer = ctypes.c_int, ctypes.c_void_p


class _Spec(ctypes.Structure):
    """`lenspipe::Spec` of kernel.h."""

    _fields_ = [
        *((name, _int) for name in ("itemsize", "bands", "height", "width", "supersampling")),
        *((name, _int) for name in ("lenses", "sources", "lights", "parameters")),
        *((name, _int) for name in ("kernel_height", "kernel_width", "marginalise", "templates", "refined")),
        *((name, _pointer) for name in ("profiles", "columns", "x", "y", "image", "weight", "weighted", "mask")),
        *((name, _pointer) for name in ("floor", "per_flux", "sky", "basis", "rows", "cols", "kernels")),
        *((name, _pointer) for name in ("refined_at", "refined_points", "refined_x", "refined_y")),
    ]


def instruction_sets() -> list[str]:
    """The ones this CPU runs, widest first; empty without the compiled library."""
    library = _library()
    if library is None:
        return []
    return [name for name in INSTRUCTION_SETS if library.lenspipe_supports(name.encode())]


def available() -> bool:
    """Whether the kernel runs here. Logs once if it was not built."""
    return _chosen() is not None


def supports(scene: Scene, blur: Blur) -> bool:
    """Whether the kernel knows every profile of `scene` and convolves with this PSF faster than torch."""
    known = all(c.profile in _MASS for c in scene.lens) and not scene.bands
    known &= all(c.profile in _LIGHT for c in (*scene.source, *scene.lens_light))
    layers = len(scene.amplitudes)
    size = (1, 1) if isinstance(blur, GaussianBlur) else blur.kernels.shape[1:]
    fits = scene.sky < layers <= MAX_LAYERS and all(n % 2 and n <= MAX_KERNEL for n in size)
    return known and fits


class Kernel:
    """log L of one candidate; see `lenspipe.infer.likelihood.Likelihood`, whose attributes the arguments are.

    Parameters
    ----------
    x, y : (W s,) and (H s,) arcsec, for s = `supersampling` subpixels per pixel and axis.
    image, weight, weighted, mask : (B,H,W); 0 where masked.
    floor, per_flux : (B,), the variance is floor + flux per_flux; None: it is 1 / weight.
    sky : (B,H,W), the blurred image of a uniform sky; None: no sky.
    basis : (B,T,H,W), images orthonormal under `weight`, which every layer is freed of; None: no templates.
    dtype : float32 or float64, of the pixel arithmetic.
    patches : pixels with more subpixels, of which each has a multiple of `SUBPIXELS`.
    """

    def __init__(
        self,
        scene: Scene,
        blur: Blur,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        image: NDArray[np.float64],
        weight: NDArray[np.float64],
        weighted: NDArray[np.float64],
        mask: NDArray[np.float64],
        floor: NDArray[np.float64] | None,
        per_flux: NDArray[np.float64] | None,
        sky: NDArray[np.float64] | None,
        basis: NDArray[np.float64] | None,
        dtype: np.dtype[np.floating],
        supersampling: int,
        marginalise: bool,
        patches: Sequence[Patch] = (),
    ):
        library, self.instructions = _library(), _chosen()
        if library is None or self.instructions is None:
            raise RuntimeError("the compiled kernel is not available")
        self.dtype, self.parameters, self.n_data = dtype, len(scene.names), int((mask > 0).sum())
        radius, operators = _operators(blur)
        # Pixels farther than a PSF from every used one touch nothing.
        box = tuple(_reach(mask, axis, r) for axis, r in ((1, radius[0]), (2, radius[1])))
        s = supersampling
        arrays = {
            "x": x[box[1].start * s : box[1].stop * s],
            "y": y[box[0].start * s : box[0].stop * s],
            **{
                name: a if a is None else a[..., box[0], box[1]]
                for name, a in (
                    ("image", image),
                    ("weight", weight),
                    ("weighted", weighted),
                    ("mask", mask),
                    ("sky", sky),
                    ("basis", None if basis is None else np.einsum("bthw,bhw->bthw", basis, weight)),
                )
            },
            "floor": floor,
            "per_flux": per_flux,
            "rows": None,
            "cols": None,
            "kernels": operators[0] if len(operators) == 1 else None,
        }
        if len(operators) == 2:
            arrays |= {"rows": operators[0][:, box[0], box[0]], "cols": operators[1][:, box[1], box[1]]}
        arrays |= _refined(patches, *box)
        components = (*scene.lens, *scene.source, *scene.lens_light)
        held = {name: np.ascontiguousarray(a, dtype=np.float64) for name, a in arrays.items() if a is not None}
        for name in ("refined_at", "refined_points"):
            held[name] = held[name].astype(np.intc)
        held["profiles"] = np.array([(_MASS | _LIGHT)[c.profile] for c in components], dtype=np.intc)
        held["columns"] = np.array([i for c in components for i in c.columns], dtype=np.intc)
        height, width = held["mask"].shape[1:]
        kernel_height, kernel_width = held["kernels"].shape[1:] if "kernels" in held else (0, 0)
        spec = _Spec(
            itemsize=dtype.itemsize,
            bands=len(mask),
            height=height,
            width=width,
            supersampling=s,
            lenses=len(scene.lens),
            sources=len(scene.source),
            lights=len(scene.lens_light),
            parameters=self.parameters,
            kernel_height=kernel_height,
            kernel_width=kernel_width,
            marginalise=marginalise,
            templates=0 if basis is None else basis.shape[1],
            refined=len(held["refined_at"]),
            **{name: a.ctypes.data for name, a in held.items()},
        )
        self._library = library
        self._problem = library.lenspipe_create(self.instructions.encode(), ctypes.byref(spec))
        weakref.finalize(self, library.lenspipe_destroy, self._problem)
        # The working memory belongs to the problem: one call at a time.
        self._lock = threading.Lock()

    def log_likelihood(
        self, vectors: NDArray[np.float64], non_negative: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """log L without penalty (NaN where impossible), and the number of bands with a negative amplitude: (K,).

        With `non_negative` the value is that of the best amplitudes that are not negative.
        """
        vectors = self._checked(vectors)
        value, negative = np.empty(len(vectors)), np.empty(len(vectors))
        with self._lock:
            self._library.lenspipe_log_likelihood(
                self._problem,
                vectors.ctypes.data,
                len(vectors),
                non_negative,
                value.ctypes.data,
                negative.ctypes.data,
            )
        return value, negative

    def residuals(self, vectors: NDArray[np.float64], non_negative: bool) -> NDArray[np.floating]:
        """(K, D) normalised residuals image - model of the used pixels; NaN where impossible."""
        vectors = self._checked(vectors)
        out = np.empty((len(vectors), self.n_data), dtype=self.dtype)
        with self._lock:
            self._library.lenspipe_residuals(
                self._problem, vectors.ctypes.data, len(vectors), non_negative, out.ctypes.data
            )
        return out

    def _checked(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        vectors = np.ascontiguousarray(vectors, dtype=np.float64)
        if vectors.ndim != 2 or vectors.shape[1] != self.parameters:
            raise ValueError(f"parameter vectors have shape {vectors.shape}, not (K, {self.parameters})")
        return vectors


def _operators(blur: Blur) -> tuple[tuple[int, int], list[NDArray[np.float64]]]:
    """How far the PSF reaches in rows and columns, and its two Gaussian operators or its flipped kernels."""
    if isinstance(blur, GaussianBlur):
        rows = blur.rows.double().cpu().numpy()
        cols = blur.columns.double().cpu().numpy().reshape(blur.width, blur.bands, blur.width).transpose(1, 0, 2)
        return (_bandwidth(rows), _bandwidth(cols)), [rows, cols]
    height, width = blur.kernels.shape[1:]
    return (height // 2, width // 2), [np.asarray(blur.kernels, dtype=np.float64)[:, ::-1, ::-1]]


def _refined(patches: Sequence[Patch], rows: slice, columns: slice) -> dict[str, NDArray[np.float64]]:
    """The refined pixels in a box of the image, and their subpixels."""
    at, points, x, y = [], [], [], []
    for patch in patches:
        inside = (patch.rows >= rows.start) & (patch.rows < rows.stop)
        inside &= (patch.columns >= columns.start) & (patch.columns < columns.stop)
        width = columns.stop - columns.start
        at.append((patch.rows[inside] - rows.start) * width + patch.columns[inside] - columns.start)
        points.append(np.full(int(inside.sum()), patch.x.shape[1]))
        x.append(patch.x.double().cpu().numpy()[inside].ravel())
        y.append(patch.y.double().cpu().numpy()[inside].ravel())
    lists = {"refined_at": at, "refined_points": points, "refined_x": x, "refined_y": y}
    return {name: np.concatenate(parts or [np.empty(0)]) for name, parts in lists.items()}


def _bandwidth(operator: NDArray[np.float64]) -> int:
    _, i, j = np.nonzero(operator)
    return int(np.abs(i - j).max())


def _reach(mask: NDArray[np.float64], axis: int, radius: int) -> slice:
    """Along one axis: the used pixels and `radius` on either side."""
    used = np.flatnonzero((mask > 0).any(tuple({0, 1, 2} - {axis})))
    if not len(used):
        return slice(0, mask.shape[axis])
    return slice(max(0, int(used[0]) - radius), min(mask.shape[axis], int(used[-1]) + 1 + radius))


def _chosen() -> str | None:
    wanted = os.environ.get("LENSPIPE_KERNEL", "")
    sets = instruction_sets() if wanted != "off" else []
    if wanted and wanted not in (*INSTRUCTION_SETS, "off"):
        raise ValueError(f"LENSPIPE_KERNEL is {wanted!r}, not one of {', '.join(INSTRUCTION_SETS)}, off")
    if wanted:
        return wanted if wanted in sets else None
    return sets[0] if sets else None


@cache
def _library() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernel{suffix}")
        if path.exists():
            library = ctypes.CDLL(str(path))
            if _speaks(library):
                return _declared(library)
            _log.warning("%s was built from other sources than this version's: running on torch (build it again)", path)
            return None
    _log.warning("the compiled likelihood kernel was not built (no C++ compiler at installation?): running on torch")
    return None


def _speaks(library: ctypes.CDLL) -> bool:
    """Whether the library's structures are the ones of this file; one from before it could say so has others."""
    if not hasattr(library, "lenspipe_speaks"):
        return False
    library.lenspipe_speaks.argtypes = [_int, ctypes.c_long]
    return bool(library.lenspipe_speaks(_ABI, ctypes.sizeof(_Spec)))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    library.lenspipe_supports.argtypes = [ctypes.c_char_p]
    library.lenspipe_create.argtypes = [ctypes.c_char_p, _pointer]
    library.lenspipe_create.restype = _pointer
    library.lenspipe_destroy.argtypes = [_pointer]
    library.lenspipe_log_likelihood.argtypes = [_pointer, _pointer, ctypes.c_long, _int, _pointer, _pointer]
    library.lenspipe_residuals.argtypes = [_pointer, _pointer, ctypes.c_long, _int, _pointer]
    for function in ("destroy", "log_likelihood", "residuals"):
        getattr(library, f"lenspipe_{function}").restype = None
    return library
