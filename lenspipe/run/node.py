"""One stage of a run in progress: its units and how far each has come."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lenspipe.errors import CandidateError, LenspipeError
from lenspipe.run.workflow import Instance
from lenspipe.stage import Resources, Stage
from lenspipe.types import check_id


@dataclass
class Node:
    """Units of one stage instance.

    Attributes
    ----------
    waiting : keys whose inputs are not settled yet.
    due : keys that must run, in batches; `singles` those that follow, each alone: `apart`, or its batch died.
    running : keys in tasks under way.
    outcome : key -> ``ok | failed | skipped`` (an input of it failed), and in a dry run ``due``.
    expanded : the keys are known.
    blocked : why nothing (more) of this stage can run, or empty.
    needed : what one of its tasks needs.
    own : key -> hash of what the options say of it alone.
    apart : keys that the options set apart.
    outside : path -> ``hash size mtime_ns`` of the files that its options name, None until they are looked at.
    """

    instance: Instance
    config_hash: str
    needed: Resources
    makers: dict[str, Node] = field(default_factory=dict)
    readers: list[Node] = field(default_factory=list)
    waiting: dict[str, None] = field(default_factory=dict)
    due: deque[str] = field(default_factory=deque)
    singles: deque[str] = field(default_factory=deque)
    running: set[str] = field(default_factory=set)
    outcome: dict[str, str] = field(default_factory=dict)
    died: dict[str, int] = field(default_factory=dict)
    expanded: bool = False
    blocked: str = ""
    outside: dict[str, dict[str, Any]] | None = None
    own: dict[str, str] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()
    ran: int = 0
    total: int = 0

    @property
    def stage(self) -> Stage:
        return self.instance.stage

    @property
    def name(self) -> str:
        return self.instance.name

    @property
    def once(self) -> bool:
        return self.stage.over is None

    @property
    def complete(self) -> bool:
        """Nothing of this stage is still to come."""
        busy = self.waiting or self.due or self.singles or self.running
        return bool(self.blocked) or (self.expanded and not busy)


def index_keys(path: Path) -> list[str]:
    """Keys of an index (ECSV with a column ``key``); rows whose ``selected`` is False are left out."""
    from astropy.table import Table

    try:
        table = Table.read(path, format="ascii.ecsv")
    except Exception as error:  # astropy raises many kinds
        raise LenspipeError(f"{path}: not an index that can be read ({error}).") from None
    if "key" not in table.colnames:
        raise LenspipeError(f"{path}: an index needs a column 'key'; there are: {', '.join(table.colnames)}.")
    chosen: Any = table["selected"] if "selected" in table.colnames else [True] * len(table)
    keys: dict[str, None] = {}
    for row, (key, wanted) in enumerate(zip(table["key"], chosen)):
        if not wanted:
            continue
        try:
            text = check_id(str(key), f"{path}, row {row}")
        except CandidateError as error:
            raise LenspipeError(error.detail) from None
        if text in keys:
            raise LenspipeError(f"{path}, row {row}: key {text!r} stands there twice.")
        keys[text] = None
    return list(keys)
