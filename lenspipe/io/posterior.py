"""``posterior.h5``: the whole chain of one candidate.

Datasets ``samples`` (chain, draw, P), ``log_prob`` (chain, draw), ``best`` (P,), ``names``, ``units`` (P,);
attributes ``schema``, ``id``, ``walkers`` and the JSON texts ``priors``, ``config``, ``versions``, ``seed``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lenspipe.io.hdf5 import created, size_of
from lenspipe.types import Posterior

SCHEMA = 1


def write_posterior(path: Path, posterior: Posterior) -> None:
    """Write `posterior`; its ``meta`` becomes attributes, what is not text as JSON."""
    with created(path, size_of(posterior.samples, posterior.log_prob, posterior.best)) as f:
        f.create_dataset("samples", data=posterior.samples, compression="gzip", shuffle=True)
        f.create_dataset("log_prob", data=posterior.log_prob)
        f.create_dataset("best", data=posterior.best)
        for name in ("names", "units"):
            f.create_dataset(name, data=list(getattr(posterior, name)), dtype=h5py.string_dtype())
        f.attrs["schema"] = SCHEMA
        for name, value in posterior.meta.items():
            f.attrs[name] = value if isinstance(value, str) else json.dumps(value)


def read_posterior(path: Path) -> Posterior:
    """The posterior that `write_posterior` wrote."""
    with h5py.File(path) as f:
        meta: dict[str, Any] = {k: v for k, v in f.attrs.items() if k != "schema"}
        names, units = (tuple(f[n].asstr()[:]) for n in ("names", "units"))
        return Posterior(names, units, np.asarray(f["samples"]), np.asarray(f["log_prob"]), np.asarray(f["best"]), meta)
