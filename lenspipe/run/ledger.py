"""The ledger of a run: append-only JSON lines, one writer, looked up by unit, rebuildable from the receipts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lenspipe.run.folder import LEDGER, RECEIPTS, receipt_path
from lenspipe.run.receipt import lean

Unit = tuple[str, str, str]
"""(corridor, stage, key)."""


class Ledger:
    """What is known of every unit of a run folder.

    Attributes
    ----------
    entries : unit -> its latest receipt, in short.
    stages : (corridor, stage) of the workflow as last run, in its order.
    planned : (corridor, stage) -> keys it has in the workflow as last run.
    started : units begun and not ended since the last run began -> the event.
    notices : sentences about lines that could not be read.
    """

    def __init__(self, root: Path):
        self.root = root
        self.path = root / LEDGER
        self.entries: dict[Unit, dict[str, Any]] = {}
        self.stages: list[tuple[str, str]] = []
        self.planned: dict[tuple[str, str], list[str]] = {}
        self.started: dict[Unit, dict[str, Any]] = {}
        self.notices: list[str] = []
        self._read()

    def done(self, receipt: dict[str, Any]) -> None:
        """A unit has come to an end, well or not."""
        self._write("unit", receipt)

    def start(self, corridor: str, stage: str, keys: tuple[str, ...]) -> None:
        self._write("start", {"corridor": corridor, "stage": stage, "keys": list(keys)})

    def plan(self, corridor: str, stage: str, keys: list[str]) -> None:
        """Which units a stage has; written only when it differs from what was last said."""
        if self.planned.get((corridor, stage)) != keys:
            self._write("plan", {"corridor": corridor, "stage": stage, "keys": keys})

    def begin(self, workflow: str, stages: list[tuple[str, str]]) -> None:
        """A run begins; what an earlier one left unended is adopted where its receipt stands."""
        for unit, event in list(self.started.items()):
            path = receipt_path(self.root, *unit)
            if path.exists() and path.stat().st_mtime >= event["time"]:
                self.done(lean(json.loads(path.read_text(encoding="utf-8"))))
        self._write("run", {"workflow": workflow, "stages": stages})

    def _write(self, event: str, data: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        line = {"event": event, "time": now.timestamp(), **data}
        self._mend()
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n")
        self._apply(line)

    def _apply(self, line: dict[str, Any]) -> None:
        where = (line.get("corridor", ""), line.get("stage", ""))
        match line["event"]:
            case "unit":
                unit = (*where, line["key"])
                self.entries[unit] = line
                self.started.pop(unit, None)
            case "start":
                self.started.update({(*where, key): line for key in line["keys"]})
            case "plan":
                self.planned[where] = line["keys"]
            case "run":
                self.started.clear()
                self.stages = [(corridor, stage) for corridor, stage in line["stages"]]

    def _read(self) -> None:
        if not self.path.exists():
            for receipt in _receipts(self.root):
                self._apply({"event": "unit", **lean(receipt)})
            if self.entries:
                self.notices.append(f"{LEDGER} is missing: rebuilt from {len(self.entries)} receipts.")
            return
        lines = self.path.read_bytes().split(b"\n")
        for number, text in enumerate(lines, 1):
            if not text:
                continue
            try:
                self._apply(json.loads(text))
            except (ValueError, KeyError, TypeError):
                what = "cut short" if number == len(lines) else "not readable"
                self.notices.append(f"{LEDGER}, line {number}: {what}, ignored.")

    _mended = False

    def _mend(self) -> None:
        """Before the first line of this writer: drop a last line cut short, or write down what was rebuilt."""
        if self._mended:
            return
        self._mended = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            rebuilt = [json.dumps({"event": "unit", **entry}, separators=(",", ":")) for entry in self.entries.values()]
            self.path.write_text("".join(f"{line}\n" for line in rebuilt), encoding="utf-8")
            return
        with self.path.open("r+b") as stream:
            data = stream.read()
            stream.truncate(data.rfind(b"\n") + 1)


def _receipts(root: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((root / RECEIPTS).rglob("*.json")):
        if not path.name.startswith("."):
            yield json.loads(path.read_text(encoding="utf-8"))
