"""Opening HDF5 files of ours for reading."""

from __future__ import annotations

from pathlib import Path

import h5py

from lenspipe.errors import LenspipeError


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
