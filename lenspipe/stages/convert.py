"""convert: users' FITS files, or simulations, to HDF5 shards in physical units."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lenspipe import products
from lenspipe.config import Config
from lenspipe.errors import LenspipeError
from lenspipe.io.survey import NoiseKind, SurveyFacts
from lenspipe.stage import Inputs, Outputs, Resources, Stage

log = logging.getLogger(__name__)


Class = Literal["source", "lens", "noise", "background"]


class ConvertConfig(Config):
    """Where the data are and what their headers do not say."""

    source: str | list[str] | dict[str, str] | None = Field(
        None,
        description="files, folders or globs; {band: file} for one stack (N, H, W) a band; null: this corridor's "
        "simulations; $VARIABLES are expanded",
    )
    layout: Literal["auto", "table", "folders", "pictures", "arrays"] = Field(
        "auto",
        description="table: stacks of cutouts with a catalogue; folders: one folder or file a candidate; pictures: "
        "one PNG file each; arrays: .npy files",
    )
    survey: SurveyFacts = SurveyFacts()
    noise_kind: NoiseKind = Field("sigma", description="what noise.fits holds; weight is taken as inverse variance")
    id_column: str | None = Field(None, description="of the catalogue; null: id, COADD_OBJECT_ID and its like")
    fwhm_unit: Literal["pixel", "arcsec"] | None = Field(
        None, description="of the columns FWHM_WMEAN_*, to be stated where they carry no unit"
    )
    picture_mask: str | None = Field(
        None, description="mask of a PNG picture: a path from its folder, such as ../masks/{name}.png"
    )
    mask_classes: dict[int, Class] = Field(
        {0: "background", 255: "source"}, description="grey value of these masks -> class"
    )
    trust_pickle: bool = Field(
        False, description="read .npy files of pickled objects too; only of files whose origin is trusted"
    )
    shard_size: int = Field(256, ge=1, description="objects of the input for one shard, failures among them")


def outside(config: ConvertConfig) -> Iterable[Path]:
    from lenspipe.io.layouts import files

    return [] if config.source is None else files(config.source, config.layout, _pairs(config))


def run(config: ConvertConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.infer.noise import sigma_map
    from lenspipe.io import catalogue
    from lenspipe.io.atomic import discard, temporary
    from lenspipe.io.layouts import Reader
    from lenspipe.stages.deal import Work, convert

    source = config.source
    if source is None:
        if "simulations" not in inputs:
            raise LenspipeError("convert: source is not stated and this corridor makes no simulations.")
        source = str(inputs["simulations"])
    stated = config.layout, config.noise_kind, config.id_column, config.fwhm_unit, _pairs(config)
    reader = Reader(config.survey, sigma_map, *stated, config.trust_pickle)
    pieces = temporary(outputs["shards"])
    pieces.mkdir()
    try:
        rows = convert(Work(reader, reader.places(source), pieces, config.shard_size, inputs.get("labels")))
        keys = {piece: f"{n:06d}" for n, piece in enumerate(sorted({row.piece for row in rows if row.piece}))}
        for piece, key in keys.items():
            os.replace(pieces / piece, outputs["shard"][key])
    finally:
        discard(pieces)
    intake = [
        {
            "id": row.entry.key,
            "file": row.entry.file,
            "row": row.entry.row,
            "shard": keys.get(row.piece, ""),
            "status": "ok" if row.piece else "failed",
            "reason": row.entry.reason,
            "detail": row.entry.detail,
            "notes": row.notes,
            "ra": row.ra,
            "dec": row.dec,
        }
        for row in rows
    ]
    held: dict[str, list[str]] = {key: [] for key in keys.values()}
    for row in rows:
        if row.piece:
            held[keys[row.piece]].append(row.entry.key)
    if not held:
        reasons = " ".join(row.entry.detail for row in rows[:3]) or f"nothing was found at {source}."
        raise LenspipeError(f"convert: not one object can be used. {reasons}")
    failed = _name_failures(intake, {name for names in held.values() for name in names})
    catalogue.write_ecsv(
        outputs["intake"], {name: [row[name] for row in intake] for name in intake[0]}, {"ra": "deg", "dec": "deg"}
    )
    catalogue.write_ecsv(outputs["shards"], {"key": list(held), "n": [len(names) for names in held.values()]})
    where = [(name, key, row) for key, names in held.items() for row, name in enumerate(names)]
    catalogue.write_parquet(outputs["index"], dict(zip(("id", "shard", "row"), map(list, zip(*where)))))
    figures = {"n": len(where), "n_failed": len(failed), "n_shards": len(held)}
    return {"figures": figures, "failed": failed}


def _pairs(config: ConvertConfig) -> Any:
    from lenspipe.io.pictures import Pairs

    return Pairs(config.picture_mask, config.mask_classes)


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


STAGE = Stage(
    name="convert",
    inputs=(),
    optional=(products.SIMULATIONS, products.LABELS),
    outside=outside,
    outputs=(products.SHARDS, products.SHARD, products.INDEX, products.INTAKE),
    config=ConvertConfig,
    run=run,
    resources=Resources(memory_gb=4.0, minutes=120.0),
    talk="mpi",
    version=2,
    summary="Read FITS files, check and mend every candidate, write HDF5 shards.",
)
