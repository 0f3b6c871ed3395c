"""collect: one row per candidate that was selected or failed anywhere, and the figures of the whole run."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

from lenspipe import products
from lenspipe.config import Config
from lenspipe.errors import LenspipeError, Reason
from lenspipe.stage import Inputs, Outputs, Resources, Stage

log = logging.getLogger(__name__)

Row = dict[str, Any]
_SCALARS = ("reduced_chi2", "chi2_arc", "rhat_max", "ess_min", "sampler_converged", "n_evaluations", "seconds")
_UNITS = {"ra": "deg", "dec": "deg", "seconds": "s"}


class CollectConfig(Config):
    """No options."""


def run(config: CollectConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.io import catalogue
    from lenspipe.io.atomic import write_json

    intake = _rows(catalogue.read_ecsv(inputs["intake"]))
    candidate_table = catalogue.read_ecsv(inputs["candidates"])
    candidates = {row["key"]: row for row in _rows(candidate_table)}
    failures = json.loads(inputs["failures"].read_text(encoding="utf-8")) if "failures" in inputs else {}
    units = {**_UNITS, **{n: str(candidate_table[n].unit or "") for n in candidate_table.colnames if _is_truth(n)}}

    failed = _failed(intake, failures)
    fits = {key: _read_fit(path / "fit.json") for key, path in inputs.get("model", {}).items()}
    wanted = {key for key, row in candidates.items() if row["selected"]} | set(failed) | set(fits)
    places = {row["id"]: row for row in intake}
    rows = []
    for name in sorted(wanted):
        row: Row = {"id": name}
        if name in fits:
            row |= _modelled(fits[name], units)
        else:
            reason, detail = failed.get(
                name, (str(Reason.INTERNAL_ERROR), "The candidate was selected, but no model came.")
            )
            row |= {"status": "failed", "reasons": reason, "detail": detail}
        place, candidate = places.get(name, {}), candidates.get(name, {})
        row |= {"ra": place.get("ra"), "dec": place.get("dec")}
        row["masks_origin"] = candidate.get("masks_origin", "")
        row.setdefault("notes", place.get("notes", ""))
        row |= {column: value for column, value in candidate.items() if _is_truth(column)}
        row["folder"] = products.MODEL.at(name) if name in fits else ""
        rows.append(row)
    columns = _columns(rows)
    catalogue.write_ecsv(outputs["lenses"], columns, units)
    catalogue.write_parquet(outputs["lenses_parquet"], columns, units)
    summary = figures(rows, fits, candidates)
    write_json(outputs["figures"], summary)
    return {"figures": summary}


def figures(rows: list[Row], fits: dict[str, Row], candidates: dict[str, Row]) -> Row:
    """What the run is judged by.

    ``n``: modelled candidates (known non-lenses left out), ``good``: the fraction of them with that status;
    ``theta_e_*``: over the modelled lenses whose truth is known; ``*_lost``, ``*_through``: what `select` did.
    None where there is nothing to count.
    """
    import numpy as np

    modelled = [row for row in rows if row["id"] in fits]
    lenses = [row for row in modelled if row.get("is_lens") is not False]
    errors, inside, outside = [], [], []
    for row in lenses:
        truth, theta = row.get("true_theta_E"), fits[row["id"]].get("parameters", {}).get("theta_E", {})
        if not _finite(truth) or not _finite(theta.get("median")):
            continue
        errors.append(abs(theta["median"] - truth) / truth)
        if _finite(theta.get("p025")) and _finite(theta.get("p975")):
            inside.append(theta["p025"] <= truth <= theta["p975"])
            if not inside[-1]:
                outside.append(row["id"])
    known = [row for row in candidates.values() if row.get("is_lens") is not None]
    return {
        "n": len(lenses),
        "good": sum(row["status"] == "good" for row in lenses) / len(lenses) if lenses else None,
        "status": dict(sorted(Counter(row["status"] for row in rows).items())),
        "n_truth": len(errors),
        "theta_e_median_rel_error": float(np.median(errors)) if errors else None,
        "theta_e_coverage95": float(np.mean(inside)) if inside else None,
        "theta_e_outside95": outside,
        "nonlenses_modelled": len(modelled) - len(lenses),
        "lenses_lost": sum(row["is_lens"] and not row["selected"] for row in known) if known else None,
        "nonlenses_through": sum(not row["is_lens"] and row["selected"] for row in known) if known else None,
    }


def _failed(intake: list[Row], failures: dict[str, dict[str, Row]]) -> dict[str, tuple[str, str]]:
    """Id -> reason and detail of all that failed before or in the model; a shard that failed stands for its objects."""
    failed = {row["id"]: (row["reason"], row["detail"]) for row in intake if row["status"] == "failed"}
    members: dict[str, list[str]] = {}
    for row in intake:
        members.setdefault(row["shard"], []).append(row["id"])
    ids = {row["id"] for row in intake}
    for stage, keys in failures.items():
        for key, why in keys.items():
            # Only convert and model speak of candidates; the keys of the stages between are those of shards.
            names = [key] if key in ids and stage in ("convert", "model") else members.get(key, [])
            for name in names:
                failed.setdefault(name, (why["reason"], f"{stage}: {why['detail']}"))
    return failed


def _read_fit(path: Path) -> Row:
    try:
        fit: Row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LenspipeError(f"{path}: cannot be read ({error}).") from None
    return fit


def _modelled(fit: Row, units: dict[str, str]) -> Row:
    """The columns of one ``fit.json``; `units` takes the units of what is new."""
    row: Row = {
        "status": fit["status"],
        "reasons": ",".join(reason["code"] for reason in fit["reasons"]),
        "detail": " ".join(reason["sentence"] for reason in fit["reasons"]),
    }
    for name, value in {**fit.get("parameters", {}), **fit.get("derived", {})}.items():
        for suffix, statistic in (("", "median"), ("_p16", "p16"), ("_p84", "p84"), ("_sigma", "sigma")):
            row[name + suffix] = value.get(statistic)
            units[name + suffix] = value.get("unit") or ""
    row |= {name: fit[name] for name in _SCALARS if name in fit}
    row |= {"engine": fit.get("engine", ""), "device": fit.get("device", "")}
    row["notes"] = "; ".join(fit.get("notes", []))
    row["versions"] = json.dumps(fit.get("versions", {}), sort_keys=True)
    return row


def _columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Rows as columns: what every row has first, then the union of the parameters; None where a row has none."""
    head = ["id", "status", "reasons", "detail", "ra", "dec"]
    tail = ["masks_origin", "engine", "device", "versions", "notes", "folder"]
    names = dict.fromkeys(name for row in rows for name in row)
    scalars = [name for name in _SCALARS if name in names]
    truth = [name for name in names if _is_truth(name)]
    rest = [name for name in names if name not in {*head, *tail, *scalars, *truth}]
    # The tail is text: empty, so that the column is text also where no candidate has a model.
    blank = dict.fromkeys(tail, "")
    return {name: [row.get(name, blank.get(name)) for row in rows] for name in [*head, *rest, *scalars, *truth, *tail]}


def _rows(table: Any) -> list[Row]:
    """Rows as dicts of plain values, masked entries None."""
    columns = [table[name].tolist() for name in table.colnames]  # masked entries come out as None
    return [dict(zip(table.colnames, values)) for values in zip(*columns)]


def _is_truth(name: str) -> bool:
    return name == "is_lens" or name.startswith("true_")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


STAGE = Stage(
    name="collect",
    inputs=(products.INTAKE, products.CANDIDATES, products.MODEL, products.FAILURES),
    outputs=(products.LENSES, products.LENSES_PARQUET, products.FIGURES),
    config=CollectConfig,
    run=run,
    headline=(
        *("n", "good", "theta_e_median_rel_error", "theta_e_coverage95"),
        *("lenses_lost", "nonlenses_through", "nonlenses_modelled"),
    ),
    resources=Resources(memory_gb=2.0, minutes=30.0),
    summary="Collect one row per candidate, failures included, and the figures of the run.",
)
