"""Class probabilities of a shard's objects: ``id`` (N,), ``probability`` (N,C,H,W) f2, attribute ``origin``; and what
there is to say of each object: ``arc_found`` (N,) bool, ``familiarity`` (N,) f4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lenspipe import __version__
from lenspipe.io.hdf5 import created, opened, size_of
from lenspipe.types import CLASSES

SCHEMA = 2


@dataclass(frozen=True)
class Answers:
    """What a segmentation says of N objects besides the class of their pixels.

    Attributes
    ----------
    arc_found : (N,) whether any pixel is likelier source than not; where none is, the answer is that there is no arc.
    familiarity : (N,) f4, p-value for the image being like those that the network was trained on; NaN: unknown.
    """

    arc_found: NDArray[np.bool_]
    familiarity: NDArray[np.float32]


def write_masks(
    path: Path, ids: Sequence[str], probability: ArrayLike, origin: str, familiarity: ArrayLike | None = None
) -> None:
    """Write (N, C, H, W) probabilities, classes ordered as `CLASSES`, to `path` (temporary: the caller renames).

    Parameters
    ----------
    familiarity : (N,), as in `Answers`; None: unknown.
    """
    values = np.asarray(probability, dtype=np.float16)
    if values.ndim != 4 or values.shape[:2] != (len(ids), len(CLASSES)):
        raise ValueError(f"probabilities of shape {values.shape} for {len(ids)} ids and {len(CLASSES)} classes")
    with created(path, size_of(list(ids), values)) as f:
        f.attrs.update(schema=SCHEMA, origin=origin, classes=list(CLASSES), lenspipe=__version__)
        f.create_dataset("id", data=list(ids), dtype=h5py.string_dtype())
        f.create_dataset("probability", data=values, chunks=(1, *values.shape[1:]))
        f["arc_found"] = (values[:, CLASSES.index("source")] > 0.5).any((1, 2))
        f["familiarity"] = np.broadcast_to(
            np.asarray(np.nan if familiarity is None else familiarity, np.float32), len(ids)
        )


def read_masks(path: Path) -> tuple[list[str], NDArray[np.float32], str]:
    """Ids, probabilities (N, C, H, W) f4, origin."""
    with opened(path, SCHEMA) as f:
        ids = [i.decode() for i in f["id"][:]]
        return ids, f["probability"][:].astype(np.float32), str(f.attrs["origin"])


def read_answers(path: Path) -> Answers:
    """What stands there of each object, in the order of the ids."""
    with opened(path, SCHEMA) as f:
        return Answers(f["arc_found"][:], f["familiarity"][:])
