"""How far a run has come, read from its ledger and lock alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lenspipe.errors import LenspipeError
from lenspipe.run.folder import STATE
from lenspipe.run.ledger import Ledger
from lenspipe.run.lock import holder, is_stale


def status(root: Path) -> dict[str, Any]:
    """``holder`` (or None), ``stages``: name -> ``units ok failed running waiting``, ``quarantined``, ``notices``.

    A stage is None while its units are not known yet, since its index is not made.
    ``quarantined`` lists ``stage, key, reason, detail``, those a stage gave up itself among them.
    """
    if not (root / STATE).is_dir():
        raise LenspipeError(f"{root}: not a run folder (it has no {STATE}).")
    ledger = Ledger(root)
    who = holder(root)
    alive = who is not None and not is_stale(root, who)
    stages: dict[str, dict[str, int] | None] = {}
    quarantined = []
    for corridor, stage in ledger.stages or ledger.planned:
        name = f"{corridor}.{stage}" if corridor else stage
        keys = ledger.planned.get((corridor, stage))
        if keys is None:
            stages[name] = None
            continue
        counts = dict.fromkeys(("ok", "failed", "running", "waiting"), 0)
        for key in keys:
            unit = (corridor, stage, key)
            entry = ledger.entries.get(unit)
            if alive and unit in ledger.started:
                counts["running"] += 1
                continue
            counts[entry["status"] if entry else "waiting"] += 1
            if entry is None:
                continue
            lost = {key: entry} if entry["status"] == "failed" else entry["failed"]
            quarantined += [
                {"stage": name, "key": k, "reason": why["reason"], "detail": why["detail"]} for k, why in lost.items()
            ]
        stages[name] = {"units": len(keys), **counts}
    return {
        "holder": who if alive else None,
        "stages": stages,
        "quarantined": quarantined,
        "notices": ledger.notices,
    }
