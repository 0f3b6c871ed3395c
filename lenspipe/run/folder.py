"""What stands where in a run folder's ``.lenspipe``: the engine's own files, apart from the products."""

from __future__ import annotations

from pathlib import Path

from lenspipe.products import Product
from lenspipe.stage import Task

STATE = ".lenspipe"
LEDGER = f"{STATE}/ledger.jsonl"
LOCK = f"{STATE}/lock"
CANCEL = f"{STATE}/cancel"
"""A driver that sees this file stops, wherever it runs."""
RECEIPTS = f"{STATE}/receipts"
FIGURES = "figures.json"
"""Of the whole run; a corridor may have its own beside its products."""
_RECEIPT = Product("receipt", "{aa}/{key}.json")


def receipt_path(root: Path, corridor: str, stage: str, key: str) -> Path:
    """One receipt per unit; ``_`` stands for the one unit of a stage that runs once (ids never begin so)."""
    return root / RECEIPTS / (corridor or "_") / stage / _RECEIPT.at(key or "_")


def config_path(root: Path, digest: str) -> Path:
    """The effective options behind a hash, kept once."""
    return root / STATE / "configs" / f"{digest}.json"


def log_path(root: Path, task: Task) -> Path:
    """The log of one attempt at one task."""
    more = f"+{len(task.keys) - 1}" if len(task.keys) > 1 else ""
    name = f"{task.keys[0] or '_'}{more}.{task.attempt}.log"
    return root / STATE / "logs" / (task.corridor or "_") / task.stage / name


def join(corridor: str, path: str) -> str:
    """A product's path relative to the run folder; a stage run by hand has no corridor."""
    return f"{corridor}/{path}" if corridor else path
