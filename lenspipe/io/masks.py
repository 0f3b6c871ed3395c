"""Class probabilities of a shard's objects: ``id`` (N,), ``probability`` (N,C,H,W) f2, attribute ``origin``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lenspipe import __version__
from lenspipe.errors import LenspipeError
from lenspipe.types import CLASSES

SCHEMA = 1


def write_masks(path: Path, ids: Sequence[str], probability: ArrayLike, origin: str) -> None:
    """Write (N, C, H, W) probabilities, classes ordered as `CLASSES`, to `path` (temporary: the caller renames)."""
    values = np.asarray(probability, dtype=np.float16)
    if values.ndim != 4 or values.shape[:2] != (len(ids), len(CLASSES)):
        raise ValueError(f"probabilities of shape {values.shape} for {len(ids)} ids and {len(CLASSES)} classes")
    with h5py.File(path, "w", libver="v110") as f:
        f.attrs.update(schema=SCHEMA, origin=origin, classes=list(CLASSES), lenspipe=__version__)
        f.create_dataset("id", data=list(ids), dtype=h5py.string_dtype())
        f.create_dataset("probability", data=values, chunks=(1, *values.shape[1:]))


def read_masks(path: Path) -> tuple[list[str], NDArray[np.float32], str]:
    """Ids, probabilities (N, C, H, W) f4, origin."""
    try:
        with h5py.File(path, "r") as f:
            if f.attrs.get("schema") != SCHEMA:
                raise LenspipeError(f"{path}: schema {f.attrs.get('schema')!r}, this version reads {SCHEMA}.")
            ids = [i.decode() for i in f["id"][:]]
            return ids, f["probability"][:].astype(np.float32), str(f.attrs["origin"])
    except OSError as error:
        raise LenspipeError(f"{path}: not a whole HDF5 file ({error}).") from None
