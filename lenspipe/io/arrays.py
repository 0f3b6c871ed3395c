"""NumPy's ``.npy`` files: stacks of cutouts or one candidate, plain or, where the user says so, pickled objects."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lenspipe.errors import CandidateError, LenspipeError, Reason


class Pickled(LenspipeError):
    """A file of pickled objects, which are not trusted."""


Images = NDArray[Any] | list[NDArray[Any]]
_HARMLESS = {
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""What a pickle may call: enough for arrays, numbers, text, lists and dicts."""


def is_array(path: Path) -> bool:
    """Whether the name says ``.npy``."""
    return path.suffix.lower() == ".npy"


def read_array(path: Path, one_band: bool, trust_pickle: bool) -> tuple[Images, bool]:
    """N images (bands, H, W), mapped where that is possible, and whether the file is a stack of candidates.

    Plain: (N, bands, H, W); (bands, H, W), of `one_band` (N, H, W); (H, W). Bands may be the last axis: they are the
    shortest one. Pickled: such an array as the only one in a list or dict, or a list or dict of candidates, each an
    image or a list or dict with one image in it. What else they hold is left aside. `Pickled` where it is not trusted.
    """
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(file)
            if dtype.hasobject:
                if not trust_pickle:
                    raise Pickled(f"{path}: holds pickled objects, which only convert --trust-pickle reads.")
                found = _unpickled(path, file)
                array = _the_array(found, (2, 3, 4))
                return _each(found, path) if array is None else _plain(array, one_band, path)
    except FileNotFoundError:
        raise CandidateError(Reason.FILE_MISSING, f"{path}: there is no such file.") from None
    except (OSError, ValueError) as error:
        raise CandidateError(Reason.FILE_UNREADABLE, f"{path}: not a NumPy file ({error}).") from None
    if dtype.kind not in "fiu" or len(shape) not in (2, 3, 4):
        raise CandidateError(
            Reason.LAYOUT_UNKNOWN, f"{path}: {dtype} of shape {shape} is neither an image nor a stack of them."
        )
    try:
        data = npy.open_memmap(path, mode="r")
    except ValueError as error:
        raise CandidateError(Reason.FILE_TRUNCATED, f"{path}: ends too early ({error}).") from None
    return _plain(data, one_band, path)


def _plain(data: NDArray[Any], one_band: bool, path: Path) -> tuple[Images, bool]:
    if data.ndim == 3 and one_band and data.shape[-1] > 1:
        return data[:, None], len(data) > 1
    return (_bands_first(data, path), True) if data.ndim == 4 else (_bands_first(data, path)[None], False)


def _unpickled(path: Path, file: BinaryIO) -> Any:
    """The one pickle that is ever read, and only where the user trusts it; even then it can make nothing but data."""
    try:
        return _Data(file, encoding="latin1").load()
    except CandidateError:
        raise
    except Exception as error:  # a damaged pickle raises many kinds
        raise CandidateError(Reason.FILE_UNREADABLE, f"{path}: the pickle cannot be read ({error}).") from None


class _Data(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, but only arrays, numbers and text are read")
        return super().find_class(module, name)


def _each(found: Any, path: Path) -> tuple[list[NDArray[Any]], bool]:
    """One image from each item of `found`."""
    items = list(_items(found))
    images = [image for item in items if (image := _the_array(item, (2, 3))) is not None]
    if not images or len(images) < len(items):
        raise CandidateError(
            Reason.LAYOUT_UNKNOWN, f"{path}: {len(images)} of its {len(items)} pickled items hold one image each."
        )
    images = [_bands_first(image, path) for image in images]
    if len({len(image) for image in images}) > 1:
        raise CandidateError(Reason.SHAPE_MISMATCH, f"{path}: its images have different numbers of bands.")
    return images, True


def _the_array(item: Any, axes: tuple[int, ...]) -> NDArray[Any] | None:
    """`item` itself, or the only one in it, as a numeric array of so many axes; None where that is not to be had."""
    arrays = [_numbers(part) for part in (item, *_items(item))]
    fitting = [array for array in arrays if array is not None and array.ndim in axes]
    return fitting[0] if len(fitting) == 1 else None


def _numbers(item: Any) -> NDArray[Any] | None:
    """A numeric array; numbers that lie in an array of objects become one."""
    if not isinstance(item, np.ndarray) or item.size == 0:
        return None
    if item.dtype.hasobject and item.ndim > 1:
        try:
            return item.astype(np.float64)
        except (TypeError, ValueError):
            return None
    return item if item.dtype.kind in "fiu" else None


def _items(found: Any) -> Sequence[Any]:
    """What is in a dict, list, tuple or one row of objects."""
    if isinstance(found, np.ndarray) and found.dtype.hasobject and found.ndim < 2:
        found = found.tolist()
    if isinstance(found, Mapping):
        return list(found.values())
    return found if isinstance(found, list | tuple) else ()


def _bands_first(image: NDArray[Any], path: Path) -> NDArray[Any]:
    """(..., bands, H, W) of (..., bands, H, W), (..., H, W, bands) or, bare, (H, W)."""
    if image.ndim == 2:
        return image[None]
    bands, rows, columns = image.shape[-3:]
    if bands <= min(rows, columns):
        return image
    if columns < min(bands, rows):
        return np.moveaxis(image, -1, -3)
    raise CandidateError(Reason.LAYOUT_UNKNOWN, f"{path}: of the axes {image.shape} none can be the bands.")
