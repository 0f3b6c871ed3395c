"""Samples for learners in HDF5.

Datasets (N objects): ``id``; ``label`` (N,) u1; ``image`` (N,B,H,W) f4; ``truth/NAME`` (N,); ``series/NAME`` (N,T,B)
f4; ``members/NAME`` (M,), with ``members/row`` the object of each. Units stand in each dataset's attribute ``unit``.
Attributes: ``schema classes bands pixel_scale config seed versions``, the last three as JSON.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lenspipe import __version__
from lenspipe.errors import LenspipeError
from lenspipe.io.hdf5 import created, opened, size_of
from lenspipe.types import Samples

SCHEMA = 1


def write_samples(path: Path, samples: Samples, config: dict[str, Any], seed: int) -> None:
    """Write to `path`, a temporary name: the caller renames. `config` and `seed` are those it was made with."""
    groups = {group: getattr(samples, group) for group in ("truth", "series", "members")}
    columns = [values for group in groups.values() for values in group.values()]
    with created(path, size_of(list(samples.id), samples.label, samples.image, *columns)) as f:
        f.create_dataset("id", data=list(samples.id), dtype=h5py.string_dtype())
        f["label"] = samples.label
        f.create_dataset("image", data=samples.image, chunks=(1, *samples.image.shape[1:]))
        f["image"].attrs["unit"] = samples.unit
        for group, columns_of in groups.items():
            for name, values in columns_of.items():
                f[f"{group}/{name}"] = values
                f[f"{group}/{name}"].attrs["unit"] = samples.units.get(name, "")
        versions = {"lenspipe": __version__, **{name: version(name) for name in ("numpy", "torch", "astropy")}}
        f.attrs.update(
            schema=SCHEMA,
            classes=list(samples.classes),
            bands=list(samples.bands),
            pixel_scale=samples.pixel_scale,
            config=json.dumps(config),
            seed=str(seed),
            versions=json.dumps(versions),
        )


def read_samples(path: Path, rows: slice = slice(None)) -> Samples:
    """The samples in `path`, or the `rows` of them (step 1); `LenspipeError` where it is not such a file."""
    with opened(path) as f:
        if f.attrs.get("schema") != SCHEMA or "label" not in f or "classes" not in f.attrs:
            raise LenspipeError(f"{path}: not samples for a learner of schema {SCHEMA}.")
        first, last, _ = rows.indices(len(f["id"]))
        groups = {name: dict(f[name].items()) if name in f else {} for name in ("truth", "series", "members")}
        members = {name: dataset[:] for name, dataset in groups["members"].items()}
        if members:
            here = (members["row"] >= first) & (members["row"] < last)
            members = {name: column[here] for name, column in members.items()}
            members["row"] -= first
        return Samples(
            id=tuple(i.decode() for i in f["id"][rows]),
            classes=tuple(f.attrs["classes"]),
            label=f["label"][rows],
            bands=tuple(f.attrs["bands"]),
            image=f["image"][rows],
            unit=str(f["image"].attrs["unit"]),
            pixel_scale=float(f.attrs["pixel_scale"]),
            truth={name: dataset[rows] for name, dataset in groups["truth"].items()},
            units={name: str(d.attrs["unit"]) for group in groups.values() for name, d in group.items()},
            series={name: np.asarray(dataset[rows]) for name, dataset in groups["series"].items()},
            members=members,
        )
