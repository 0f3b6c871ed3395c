"""report: one static page with a picture, the numbers and the verdict of every candidate."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lenspipe import __version__, products
from lenspipe.config import Config
from lenspipe.errors import Reason
from lenspipe.stage import Inputs, Outputs, Resources, Stage

if TYPE_CHECKING:
    from lenspipe.view.page import Entry

log = logging.getLogger(__name__)

Row = dict[str, Any]
_UP = "../"
"""From the report's folder to the corridor's, where all products lie."""


class ReportConfig(Config):
    """Options of ``report``."""

    title: str = Field("Strong-lens models", description="heading of the page")


def run(config: ReportConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.io.catalogue import read_ecsv
    from lenspipe.view.page import Page, render

    folder: Path = outputs["report"]
    (folder / "pictures").mkdir(parents=True)
    lenses, candidates, intake = (_rows(read_ecsv(inputs[name])) for name in ("lenses", "candidates", "intake"))
    figures = json.loads(inputs["figures"].read_text(encoding="utf-8"))
    failures = json.loads(inputs["failures"].read_text(encoding="utf-8"))
    models: dict[str, Path] = inputs["model"]
    page = Page(
        title=config.title,
        figures=figures,
        flow=[
            ("objects in", len(intake)),
            ("usable", sum(row["status"] == "ok" for row in intake)),
            ("selected", sum(bool(row["selected"]) for row in candidates)),
            ("modelled", len(models)),
            ("good", sum(row["status"] == "good" for row in lenses)),
        ],
        entries=[_entry(row, models.get(row["id"]), folder) for row in lenses],
        left_out=_left_out(intake, failures),
        facts=_facts(lenses, figures, seed),
        downloads=[(p.path, _UP + p.path) for p in (products.LENSES, products.LENSES_PARQUET, products.FIGURES)],
    )
    (folder / "index.html").write_text(render(page), encoding="utf-8")
    return {}


def _entry(row: Row, model: Path | None, folder: Path) -> Entry:
    """One line of the table; its picture is drawn into `folder`."""
    from lenspipe.view.page import Entry

    if model is None:
        return Entry(row)
    names = sorted(p.name for p in model.iterdir())
    where = _UP + products.MODEL.at(row["id"]) + "/"
    picture = f"pictures/{row['id']}.png"
    _draw(model / "model.fits", folder / picture)
    files = [(name, where + name) for name in names if name != "sheet.png"]
    sheet = "sheet.png" if "sheet.png" in names else "model.fits"
    return Entry(row, picture, where + sheet, files)


def _draw(path: Path, picture: Path) -> None:
    """Observed, model and residual of ``model.fits`` side by side."""
    from astropy.io import fits

    from lenspipe.view.thumbnail import triptych

    with fits.open(path) as hdus:
        data, model, sigma, mask = (hdus[name].data for name in ("DATA", "MODEL", "SIGMA", "MASK"))
        triptych(picture, image=data, model=model, sigma=sigma, valid=mask.astype(bool))


def _left_out(intake: list[Row], failures: dict[str, dict[str, Row]]) -> list[tuple[str, str, str]]:
    """What, why and a sentence: inputs that could not be read, then units that were quarantined."""
    found = [(row["id"], row["reason"], row["detail"]) for row in intake if row["status"] == "failed"]
    said = {what for what, _, _ in found}
    for stage, units in failures.items():
        for key, why in units.items():
            if key not in said:
                found.append((f"{stage} {key}".strip(), why["reason"], why["detail"]))
    return [(what, reason, sentence or Reason(reason).sentence) for what, reason, sentence in found]


def _facts(lenses: list[Row], figures: Row, seed: int) -> list[tuple[str, str]]:
    """About the run: when, with what, from which seed, and the figures that are no headlines."""
    from lenspipe.view.page import HEADLINES

    facts = [
        ("written", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("lenspipe", __version__),
        ("seed of this stage", str(seed)),
    ]
    origins = sorted({row["masks_origin"] for row in lenses if row["masks_origin"]})
    if origins:
        facts.append(("segmentation by", ", ".join(origins)))
    versions = [json.loads(row["versions"]) for row in lenses if row.get("versions")]
    if versions:
        facts.append(("versions", ", ".join(f"{name} {number}" for name, number in versions[0].items())))
    simple = {name: v for name, v in figures.items() if isinstance(v, int | float | str) and name not in HEADLINES}
    return [
        *facts,
        *((name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in simple.items()),
    ]


def _rows(table: Any) -> list[Row]:
    """Rows of a table as plain values, None where masked."""
    return [dict(zip(table.colnames, values)) for values in zip(*(table[name].tolist() for name in table.colnames))]


STAGE = Stage(
    name="report",
    inputs=(
        products.LENSES,
        products.FIGURES,
        products.CANDIDATES,
        products.MODEL,
        products.FAILURES,
        products.INTAKE,
    ),
    outputs=(products.REPORT,),
    config=ReportConfig,
    run=run,
    resources=Resources(memory_gb=2.0, minutes=30.0),
    summary="Write a static page with a picture, the numbers and the verdict of every candidate.",
)
