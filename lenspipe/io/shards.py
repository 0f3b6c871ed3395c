"""HDF5 shards of cutouts in physical units, and one-candidate bundles: the same layout with N = 1 and masks.

Datasets (N objects): ``id``; ``image sigma`` (N,B,H,W) f4; ``valid`` (N,B,H,W) bool; ``psf`` (N,B,h,w) f4;
``psf_fwhm background_rms exposure_time zero_point`` (N,B) f8; ``cd`` (N,2,2) f8 (NaN = unknown); ``ra dec`` (N,);
``sigma_measured`` (N,) bool; ``notes`` (N,) text; optional ``label`` (N,H,W) u1 with values in
`lenspipe.types.CLASSES`; ``table/NAME`` (N,): columns that came along (units in the attribute ``unit``), true
parameters of simulations as ``true_*`` and ``is_lens`` among them; bundles add ``masks`` (N,C,H,W) f4 and, where a
network estimated the deflector, ``estimate/mean`` (N,7) and ``estimate/covariance`` (N,7,7), in the parameters of
`lenspipe.types.Estimate`.
Attributes: ``schema bands pixel_scale unit lenspipe``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lenspipe import __version__
from lenspipe.errors import LenspipeError
from lenspipe.io.hdf5 import created, opened, size_of
from lenspipe.types import CLASSES, DEFLECTOR, Cutout, Estimate, Masks

SCHEMA = 1
_FACTS = 1024
"""Bytes for an object's name, place and estimate."""
_PER_OBJECT = ("image", "sigma", "valid", "psf", "psf_fwhm", "background_rms", "exposure_time", "zero_point")


@dataclass(frozen=True)
class Extra:
    """What may travel with cutouts: labels (N,H,W) u1 or None, and columns name -> (N,) with their units."""

    label: NDArray[np.uint8] | None = None
    table: dict[str, NDArray[Any]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)


def write(
    path: Path,
    cutouts: Sequence[Cutout],
    extra: Extra | None = None,
    masks: Sequence[Masks] = (),
    estimates: Sequence[Estimate] = (),
) -> None:
    """Write cutouts that share bands, shapes and pixel scale to `path` (a temporary name: the caller renames)."""
    first, extra = cutouts[0], extra or Extra()
    text, notes = h5py.string_dtype(), ["\n".join(c.notes) for c in cutouts]
    arrays = [getattr(c, name) for c in cutouts for name in _PER_OBJECT]
    arrays += [m.probability for m in masks] + ([] if extra.label is None else [extra.label])
    size = size_of(notes, *arrays, *extra.table.values()) + _FACTS * len(cutouts)
    with created(path, size) as f:
        f.attrs.update(schema=SCHEMA, bands=list(first.bands), pixel_scale=first.pixel_scale, unit=first.unit)
        f.attrs["lenspipe"] = __version__
        f.create_dataset("id", data=[c.id for c in cutouts], dtype=text)
        f.create_dataset("notes", data=notes, dtype=text)
        for name in _PER_OBJECT:
            stack = np.stack([getattr(c, name) for c in cutouts])
            chunks = (1, *stack.shape[1:]) if stack.ndim == 4 else None
            f.create_dataset(name, data=stack, chunks=chunks)
        nowhere = np.full((2, 2), np.nan)
        f["cd"] = np.stack([nowhere if c.cd is None else c.cd for c in cutouts])
        f["ra"], f["dec"] = [c.ra for c in cutouts], [c.dec for c in cutouts]
        f["sigma_measured"] = [c.sigma_measured for c in cutouts]
        if extra.label is not None:
            f.create_dataset("label", data=extra.label, chunks=(1, *extra.label.shape[1:]))
        for name, column in extra.table.items():
            kind = text if np.asarray(column).dtype.kind in "OUS" else None
            # h5py has no conversion from numpy's fixed-length text.
            data = column if kind is None else [str(value) for value in column]
            dataset = f.create_dataset(f"table/{name}", data=data, dtype=kind)
            dataset.attrs["unit"] = extra.units.get(name, "")
        if masks:
            f["masks"] = np.stack([m.probability for m in masks])
            f["masks"].attrs.update(classes=list(CLASSES), origin=masks[0].origin)
        if estimates:
            for name in ("mean", "covariance"):
                f[f"estimate/{name}"] = np.stack([getattr(e, name) for e in estimates])
            f["estimate"].attrs.update(parameters=list(DEFLECTOR), origin=estimates[0].origin)


class Shard:
    """An open shard, read row by row. Open it after forking; use it in a ``with``."""

    def __init__(self, path: Path):
        self.path = path
        self.file = opened(path, SCHEMA)
        self.ids: list[str] = [i.decode() for i in self.file["id"][:]]
        for name in (*_PER_OBJECT, *(name for name in ("label", "masks") if name in self.file)):
            held = len(self.file[name]) if name in self.file else 0
            if held != len(self.ids):
                self.file.close()
                raise LenspipeError(f"{path}: {name} holds {held} of {len(self.ids)} objects.")
        self.bands: tuple[str, ...] = tuple(self.file.attrs["bands"])
        self.pixel_scale = float(self.file.attrs["pixel_scale"])

    def __len__(self) -> int:
        return len(self.ids)

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: B, H, W."""
        return tuple(self.file["image"].shape[1:])

    def cutout(self, row: int) -> Cutout:
        f = self.file
        cd = f["cd"][row]
        notes = f["notes"][row].decode()
        return Cutout(
            id=self.ids[row],
            bands=self.bands,
            pixel_scale=self.pixel_scale,
            unit=str(f.attrs["unit"]),
            cd=cd if np.isfinite(cd).all() else None,
            ra=float(f["ra"][row]),
            dec=float(f["dec"][row]),
            sigma_measured=bool(f["sigma_measured"][row]),
            notes=tuple(notes.split("\n")) if notes else (),
            **{name: f[name][row] for name in _PER_OBJECT},
        )

    def masks(self, row: int) -> Masks | None:
        if "masks" not in self.file:
            return None
        return Masks(self.file["masks"][row].astype(np.float32), str(self.file["masks"].attrs["origin"]))

    def estimate(self, row: int) -> Estimate | None:
        if "estimate" not in self.file:
            return None
        group = self.file["estimate"]
        return Estimate(group["mean"][row], group["covariance"][row], str(group.attrs["origin"]))

    def labels(self) -> NDArray[np.uint8] | None:
        return self.file["label"][:] if "label" in self.file else None

    def table(self) -> dict[str, NDArray[Any]]:
        """Columns that came along, text as `str`."""
        columns = {}
        for name, dataset in self.file.get("table", {}).items():
            is_text = h5py.check_string_dtype(dataset.dtype) is not None
            columns[name] = dataset.asstr()[:] if is_text else dataset[:]
        return columns

    def units(self) -> dict[str, str]:
        return {name: str(d.attrs.get("unit", "")) for name, d in self.file.get("table", {}).items()}


def write_bundle(
    path: Path, cutout: Cutout, masks: Masks | None, extra: Extra | None = None, estimate: Estimate | None = None
) -> None:
    """One candidate with its masks, and what a network estimates of its deflector."""
    write(path, [cutout], extra, [masks] if masks is not None else [], [estimate] if estimate is not None else [])


def read_bundle(path: Path) -> tuple[Cutout, Masks | None, Estimate | None, dict[str, Any]]:
    """`Cutout`, `Masks` and `Estimate`, None where there are none, and the columns that came along, one value each."""
    with Shard(path) as shard:
        columns = {name: column[0] for name, column in shard.table().items()}
        return shard.cutout(0), shard.masks(0), shard.estimate(0), columns
