"""convert: users' FITS files, or simulations, to HDF5 shards in physical units."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lenspipe import products
from lenspipe.config import Config
from lenspipe.errors import LenspipeError, Reason
from lenspipe.io.survey import NoiseKind, SurveyFacts
from lenspipe.stage import Inputs, Outputs, Resources, Stage

log = logging.getLogger(__name__)


class ConvertConfig(Config):
    """Where the data are and what their headers do not say."""

    source: str | list[str] | dict[str, str] | None = Field(
        None,
        description="files, folders or globs; {band: file} for one stack (N, H, W) a band; null: this corridor's "
        "simulations; $VARIABLES are expanded",
    )
    layout: Literal["auto", "table", "folders"] = Field(
        "auto", description="table: stacks of cutouts with a catalogue; folders: one folder or file a candidate"
    )
    survey: SurveyFacts = SurveyFacts()
    noise_kind: NoiseKind = Field("sigma", description="what noise.fits holds; weight is taken as inverse variance")
    id_column: str | None = Field(None, description="of the catalogue; null: id, COADD_OBJECT_ID and its like")
    fwhm_unit: Literal["pixel", "arcsec"] | None = Field(
        None, description="of the columns FWHM_WMEAN_*, to be stated where they carry no unit"
    )
    shard_size: int = Field(256, ge=1, description="objects in a shard")


def outside(config: ConvertConfig) -> Iterable[Path]:
    from lenspipe.io.layouts import files

    return [] if config.source is None else files(config.source, config.layout)


def run(config: ConvertConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.infer.noise import sigma_map
    from lenspipe.io import catalogue
    from lenspipe.io.layouts import Entry, Reader, safe_key

    source = config.source
    if source is None:
        if "simulations" not in inputs:
            raise LenspipeError("convert: source is not stated and this corridor makes no simulations.")
        source = str(inputs["simulations"])
    reader = Reader(config.survey, sigma_map, config.layout, config.noise_kind, config.id_column, config.fwhm_unit)
    labels = _Labels(inputs["labels"]) if "labels" in inputs else None
    shards = _Shards(outputs["shard"], config.shard_size)
    intake: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    for entry in reader.entries(source):
        place = f"{entry.file}, row {entry.row}" if entry.row >= 0 else entry.file
        if entry.cutout is not None and entry.key in first:
            detail = f"{place}: the id {entry.key} is already that of {first[entry.key]}, which is kept."
            entry = Entry(safe_key(entry.key), entry.file, entry.row, reason=str(Reason.ID_DUPLICATE), detail=detail)
        made = entry.cutout
        row = {
            "id": entry.key,
            "file": entry.file,
            "row": entry.row,
            "shard": "",
            "status": "ok" if made else "failed",
            "reason": entry.reason,
            "detail": entry.detail,
            "notes": "; ".join(made.notes) if made else "",
            "ra": made.ra if made else float("nan"),
            "dec": made.dec if made else float("nan"),
        }
        intake.append(row)
        if made is not None:
            first[entry.key] = place
            if labels is not None:
                entry = replace(entry, label=labels.of(entry.key))
            shards.add(entry, row)
    shards.flush_all()
    failed = _name_failures(intake, set(first))
    if not first:
        reasons = " ".join(row["detail"] for row in intake[:3]) or f"nothing was found at {source}."
        raise LenspipeError(f"convert: not one object can be used. {reasons}")
    catalogue.write_ecsv(
        outputs["intake"], {name: [row[name] for row in intake] for name in intake[0]}, {"ra": "deg", "dec": "deg"}
    )
    catalogue.write_ecsv(outputs["shards"], {"key": list(shards.sizes), "n": list(shards.sizes.values())})
    figures = {"n": len(first), "n_failed": len(failed), "n_shards": len(shards.sizes)}
    return {"figures": figures, "failed": failed}


def _name_failures(intake: list[dict[str, Any]], names: set[str]) -> dict[str, dict[str, str]]:
    """Failed rows by id, after giving each a name that no other object bears."""
    failed = {}
    for row in intake:
        if row["status"] == "ok":
            continue
        key, number = row["id"], 2
        while row["id"] in names:
            row["id"], number = f"{key}+{number}", number + 1
        names.add(row["id"])
        failed[row["id"]] = {"reason": row["reason"], "detail": row["detail"]}
        log.warning("%s: %s", row["reason"], row["detail"])
    return failed


class _Labels:
    """Class numbers by id, from the product of the stage ``label``."""

    def __init__(self, path: Path):
        import h5py

        self.path = path
        with h5py.File(path, "r") as f:
            self._rows = {i.decode(): row for row, i in enumerate(f["id"][:])}
            self._label = f["label"][:]

    def of(self, name: str) -> Any:
        if name not in self._rows:
            raise LenspipeError(f"{self.path}: no label for the object {name}.")
        return self._label[self._rows[name]]


class _Shards:
    """Gathers objects that fit together and writes a shard whenever one is full."""

    def __init__(self, outputs: Any, size: int):
        self._outputs, self._size = outputs, size
        self._groups: dict[Any, list[tuple[Any, dict[str, Any]]]] = {}
        self.sizes: dict[str, int] = {}

    def add(self, entry: Any, row: dict[str, Any]) -> None:
        made = entry.cutout
        alike = (made.bands, made.shape, made.pixel_scale, made.unit, entry.label is not None, tuple(entry.table))
        self._groups.setdefault(alike, []).append((entry, row))
        if len(self._groups[alike]) == self._size:
            self._flush(self._groups.pop(alike))

    def flush_all(self) -> None:
        for group in self._groups.values():
            self._flush(group)
        self._groups = {}

    def _flush(self, group: list[tuple[Any, dict[str, Any]]]) -> None:
        import numpy as np

        from lenspipe.io import shards
        from lenspipe.io.mend import pad_to

        key = f"{len(self.sizes):06d}"
        entries = [entry for entry, _ in group]
        size = tuple(max(entry.cutout.psf.shape[axis] for entry in entries) for axis in (1, 2))
        cutouts = [replace(entry.cutout, psf=pad_to(entry.cutout.psf, size)) for entry in entries]
        table = {name: np.array([entry.table[name] for entry in entries]) for name in entries[0].table}
        label = None if entries[0].label is None else np.stack([entry.label for entry in entries])
        shards.write(self._outputs[key], cutouts, shards.Extra(label, table, entries[0].units))
        self.sizes[key] = len(entries)
        for _, row in group:
            row["shard"] = key


STAGE = Stage(
    name="convert",
    inputs=(),
    optional=(products.SIMULATIONS, products.LABELS),
    outside=outside,
    outputs=(products.SHARDS, products.SHARD, products.INTAKE),
    config=ConvertConfig,
    run=run,
    resources=Resources(memory_gb=4.0, minutes=120.0),
    summary="Read FITS files, check and mend every candidate, write HDF5 shards.",
)
