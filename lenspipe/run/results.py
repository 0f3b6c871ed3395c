"""What a finished run tells: the figures that its stages put forward, and where its results lie."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lenspipe.io.atomic import write_json
from lenspipe.run.folder import FIGURES, join, receipt_path
from lenspipe.run.workflow import Instance


def write_figures(root: Path, instances: Sequence[Instance], seconds: float) -> None:
    """``RUN/figures.json``: the figures that stages put forward, from their receipts, and the wall time of the run.

    A name that more than one stage puts forward has its corridor before it. Without any, no file is written.
    """
    found = [(item.corridor, name, value) for item in instances for name, value in _put_forward(root, item).items()]
    times = Counter(name for _, name, _ in found)
    figures = {name if times[name] == 1 else f"{corridor}.{name}": value for corridor, name, value in found}
    if figures:
        write_json(root / FIGURES, {**figures, "seconds": round(seconds, 1)})


def result_lines(root: Path, instances: Sequence[Instance]) -> list[str]:
    """The figures and the paths of the results as a short table."""
    rows = []
    if (path := root / FIGURES).exists():
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows += [(name, _number(value)) for name, value in figures.items()]
        rows.append(("figures", str(path)))
    for item in instances:
        for product in item.stage.outputs:
            if product.shown is not None:
                rows.append((product.name, str(root / join(item.corridor, product.path) / product.shown)))
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{width}}  {text}" for name, text in rows]


def _put_forward(root: Path, instance: Instance) -> dict[str, Any]:
    stage = instance.stage
    if not stage.headline:
        return {}
    path = receipt_path(root, instance.corridor, stage.name, "")
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return {name: figures[name] for name in stage.headline if name in figures}


def _number(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
