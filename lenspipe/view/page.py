"""The report as one HTML file: no script or style from anywhere else, so it opens from a disk or an attachment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lenspipe.view.text import rounded

HEADLINES = {
    "n": ("candidates modelled", "{:,}"),
    "good": ("of them good", "{:.0%}"),
    "theta_e_median_rel_error": ("median error of the Einstein radius", "{:.2%}"),
    "theta_e_coverage95": ("true Einstein radius inside the 95 % interval", "{:.0%}"),
    "macro_iou": ("macro IoU of the segmentation", "{:.3f}"),
}
"""Figures of the run that stand at the top: what they are, and how they are written."""


@dataclass(frozen=True)
class Entry:
    """One candidate's line in the table.

    Attributes
    ----------
    row : its row of the catalogue, None where a value is missing.
    picture : link to a small picture, "" without one.
    sheet : link to its summary sheet, "" without one.
    files : (name, link) of everything else.
    """

    row: Mapping[str, Any]
    picture: str = ""
    sheet: str = ""
    files: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Page:
    """What the report says.

    Attributes
    ----------
    title : heading.
    figures : of ``figures.json``.
    flow : (what, number) of objects from the input to the good models.
    entries : one per candidate.
    left_out : what, why, sentence of every input or unit that could not be used.
    facts : (label, value) about the run.
    downloads : (name, link) of the catalogues.
    """

    title: str
    figures: Mapping[str, Any]
    flow: Sequence[tuple[str, int]]
    entries: Sequence[Entry]
    left_out: Sequence[tuple[str, str, str]]
    facts: Sequence[tuple[str, str]]
    downloads: Sequence[tuple[str, str]]


def render(page: Page) -> str:
    """HTML; everything from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("lenspipe.view"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    headlines = [(form.format(page.figures[key]), label) for key, (label, form) in HEADLINES.items() if _has(page, key)]
    return environment.get_template("report.html").render(
        page=page,
        headlines=headlines,
        columns=_columns(page.entries),
        lines=[_line(entry) for entry in page.entries],
        statuses=[s for s in ("good", "suspect", "failed") if any(e.row["status"] == s for e in page.entries)],
    )


def _has(page: Page, key: str) -> bool:
    return page.figures.get(key) is not None


def _columns(entries: Sequence[Entry]) -> list[str]:
    """Headings of the numbers, the truth among them where some are known."""
    truth = ["true θ_E [″]"] if any(_number(e.row, "true_theta_E") is not None for e in entries) else []
    return ["θ_E [″]", *truth, "axis ratio", "magnification", "reduced χ²"]


def _line(entry: Entry) -> dict[str, Any]:
    """The numbers of one row as (text to show, value to sort by), in the order of `_columns`."""
    row = entry.row
    theta, low, high = (_number(row, name) for name in ("theta_E", "theta_E_p16", "theta_E_p84"))
    if theta is not None and low is not None and high is not None:
        median, minus, plus = rounded(theta, theta - low, high - theta)
        numbers: list[tuple[str, float | None]] = [
            (f"{median} ± {plus}" if minus == plus else f"{median} −{minus} +{plus}", theta)
        ]
    else:
        numbers = [("", None)]
    forms = {"true_theta_E": "{:.3f}", "q": "{:.2f}", "magnification": "{:.1f}", "reduced_chi2": "{:.2f}"}
    for name, form in forms.items():
        if name == "true_theta_E" and name not in row:
            continue
        value = _number(row, name)
        numbers.append(("" if value is None else form.format(value), value))
    return {"entry": entry, "row": row, "numbers": numbers}


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
