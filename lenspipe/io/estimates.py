"""Estimates of a shard's deflectors: ``id`` (N,), ``mean`` (N,7) and ``covariance`` (N,7,7) in the parameters of
`lenspipe.types.Estimate`; attributes ``origin parameters``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from lenspipe import __version__
from lenspipe.io.hdf5 import created, opened, size_of
from lenspipe.types import DEFLECTOR, Estimate

SCHEMA = 1


def write_estimates(
    path: Path, ids: Sequence[str], mean: NDArray[np.float64], covariance: NDArray[np.float64], origin: str
) -> None:
    """Write (N, 7) means and (N, 7, 7) covariances to `path` (temporary: the caller renames)."""
    with created(path, size_of(list(ids), mean, covariance)) as f:
        f.attrs.update(schema=SCHEMA, origin=origin, parameters=list(DEFLECTOR), lenspipe=__version__)
        f.create_dataset("id", data=list(ids), dtype=h5py.string_dtype())
        f["mean"], f["covariance"] = mean, covariance


def read_estimates(path: Path) -> dict[str, Estimate]:
    """Id -> its estimate."""
    with opened(path, SCHEMA) as f:
        origin = str(f.attrs["origin"])
        ids, means, covariances = f["id"].asstr()[:], f["mean"][:], f["covariance"][:]
    return {name: Estimate(mean, covariance, origin) for name, mean, covariance in zip(ids, means, covariances)}
