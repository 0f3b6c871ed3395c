"""Opening HDF5 files of ours, for reading and for writing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lenspipe.errors import LenspipeError
from lenspipe.io.room import of_arrays, reserve

_TEXT = 64
"""Bytes of a text beside its letters."""
_VERSION = "v110"
"""Of the file format: the oldest that has what is used, whatever library writes it."""


def opened(path: Path, schema: int | None = None) -> h5py.File:
    """The file `path`, to be closed by the caller; `LenspipeError` where it is not whole, or not of that `schema`."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise LenspipeError(f"{path}: not a whole HDF5 file ({error}).") from None
    found = file.attrs.get("schema")
    if schema is not None and found != schema:
        file.close()
        raise LenspipeError(f"{path}: schema {found!r}, this version reads {schema}.")
    return file


@contextmanager
def created(path: Path, size: int) -> Iterator[h5py.File]:
    """A new file `path`, open for what will take `size` bytes (`size_of`); `OSError` at once where there is no room.

    HDF5 cannot close a file where the disk fills under it, and takes the process down.
    """
    h5py.File(path, "w", libver=_VERSION).close()
    reserve(path, of_arrays(size))
    # What was not needed of it is given back when HDF5 closes the file.
    with h5py.File(path, "r+", libver=_VERSION) as file:
        yield file


def size_of(*values: Any) -> int:
    """Bytes that arrays, and sequences of text, take in a file."""
    total = 0
    for value in values:
        array = np.asarray(value)
        is_text = array.dtype.kind in "OUS"
        total += sum(_TEXT + len(str(item).encode()) for item in array.flat) if is_text else array.nbytes
    return total
