"""The ledger of a run: append-only JSON lines, one writer, looked up by unit, rebuildable from the receipts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lenspipe.run.folder import LEDGER, RECEIPTS, receipt_path
from lenspipe.run.receipt import lean

Unit = tuple[str, str, str]
"""(corridor, stage, key)."""


class Entries(Mapping[Unit, dict[str, Any]]):
    """Unit -> its latest receipt, in short.

    Those of keys are held as text, since 10^5 dictionaries fill half a gigabyte; that of a stage that runs once is
    asked for each of its members.
    """

    def __init__(self) -> None:
        self._lines: dict[Unit, bytes | dict[str, Any]] = {}

    def put(self, unit: Unit, line: dict[str, Any], text: bytes) -> None:
        self._lines[unit] = text if unit[2] else line

    def __getitem__(self, unit: Unit) -> dict[str, Any]:
        held = self._lines[unit]
        entry: dict[str, Any] = held if isinstance(held, dict) else json.loads(held)
        return entry

    def __iter__(self) -> Iterator[Unit]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, unit: object) -> bool:
        return unit in self._lines


class Ledger:
    """What is known of every unit of a run folder.

    Attributes
    ----------
    entries : unit -> its latest receipt, in short.
    stages : (corridor, stage) of the workflow as last run, in its order.
    planned : (corridor, stage) -> keys it has in the workflow as last run.
    started : units begun and not ended since the last run began -> the event.
    notices : sentences about lines that could not be read.
    check : called before anything is written; raises where another process writes now.
    """

    def __init__(self, root: Path, check: Callable[[], None] = lambda: None):
        self.root, self.check = root, check
        self.path = root / LEDGER
        self.entries = Entries()
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
        self.check()
        now = datetime.now(UTC)
        line = {"event": event, "time": now.timestamp(), **data}
        self._mend()
        text = _compact(line)
        with self.path.open("ab") as stream:
            stream.write(text + b"\n")
        self._apply(line, text)

    def _apply(self, line: dict[str, Any], text: bytes) -> None:
        """`text` is the `line` as it is written."""
        where = (line.get("corridor", ""), line.get("stage", ""))
        match line["event"]:
            case "unit":
                unit = (*where, line["key"])
                self.entries.put(unit, line, text)
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
                entry = {"event": "unit", **lean(receipt)}
                self._apply(entry, _compact(entry))
            if self.entries:
                self.notices.append(f"{LEDGER} is missing: rebuilt from {len(self.entries)} receipts.")
            return
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                text = line.rstrip(b"\n")
                if not text:
                    continue
                try:
                    self._apply(json.loads(text), text)
                except (ValueError, KeyError, TypeError):
                    what = "not readable" if line.endswith(b"\n") else "cut short"
                    self.notices.append(f"{LEDGER}, line {number}: {what}, ignored.")

    _mended = False

    def _mend(self) -> None:
        """Before the first line of this writer: drop a last line cut short, or write down what was rebuilt."""
        if self._mended:
            return
        self._mended = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self.path.write_bytes(b"".join(_compact(entry) + b"\n" for entry in self.entries.values()))
            return
        with self.path.open("r+b") as stream:
            whole = 0
            for line in stream:
                whole += len(line) if line.endswith(b"\n") else 0
            stream.truncate(whole)


def _compact(line: dict[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False, separators=(",", ":")).encode()


def _receipts(root: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((root / RECEIPTS).rglob("*.json")):
        if not path.name.startswith("."):
            yield json.loads(path.read_text(encoding="utf-8"))
