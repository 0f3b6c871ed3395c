"""HTCondor's own event log, the text that it keeps of every job: what became of whom, without asking a daemon."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HEAD = re.compile(r"(\d{3}) \((\d+)\.(\d+)\.\d+\) (\S+ \S+) (.*)")
_NODE = re.compile(r"\s*DAG Node: (\S+)")
_HOLD = re.compile(r"\s*Code (\d+) Subcode (-?\d+)")
_END = re.compile(
    r"\s*\((?:0|1)\) (?:Normal termination \(return value (-?\d+)\)|Abnormal termination \(signal (\d+)\))"
)
_STATES = {
    "000": "idle",
    "001": "running",
    "004": "idle",  # evicted
    "007": "idle",  # the shadow's exception: it starts again
    "009": "removed",
    "012": "held",
    "013": "idle",  # released
    "024": "idle",  # the worker could not be reached again
}
"""Event number -> state of the job after it; 005, its end, is done or failed, and other events change nothing."""


@dataclass
class Job:
    """What the log says of one job.

    Attributes
    ----------
    id : ``cluster.process``.
    node : of the DAG, empty for a job that belongs to none.
    state : ``idle running held done failed removed``.
    starts : times it began on a worker; `checkpoints` times its checkpoint was brought home.
    detail : why it is held, or how it ended.
    code, subcode : HTCondor's HoldReasonCode and HoldReasonSubCode of the last hold.
    """

    id: str
    node: str = ""
    state: str = "idle"
    starts: int = 0
    checkpoints: int = 0
    detail: str = ""
    code: int = 0
    subcode: int = 0


@dataclass
class Event:
    """One event: its number, ``cluster.process``, local time, the rest of its first line and the other lines."""

    number: str
    job: str
    time: str
    text: str
    lines: list[str] = field(default_factory=list)

    def find(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        return next((found for line in self.lines if (found := pattern.match(line))), None)


def events(path: Path) -> Iterator[Event]:
    """Whole events only: one that is being written ends without its line of dots."""
    event: Event | None = None
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line == "...":
            if event is not None:
                yield event
            event = None
        elif head := _HEAD.match(line):
            number, cluster, process, time, text = head.groups()
            event = Event(number, f"{int(cluster)}.{int(process)}", time, text)
        elif event is not None:
            event.lines.append(line)


def jobs(path: Path) -> dict[str, Job]:
    """Id -> job, in the order of submission."""
    found: dict[str, Job] = {}
    for event in events(path):
        job = found.setdefault(event.job, Job(event.job))
        if node := event.find(_NODE):
            job.node = node[1]
        match event.number:
            case "001":
                job.starts += 1
            case "040" if event.text.startswith("Finished transferring output"):
                job.checkpoints += 1
            case "012":
                job.detail = event.lines[0].strip() if event.lines else ""
                if code := event.find(_HOLD):
                    job.code, job.subcode = int(code[1]), int(code[2])
            case "005":
                job.checkpoints -= 1  # the last transfer was of the results
                end = event.find(_END)
                job.state = "done" if end and end[1] == "0" else "failed"
                if end and job.state == "failed":
                    job.detail = f"signal {end[2]}" if end[2] else f"exit code {end[1]}"
            case "009":
                job.detail = event.lines[0].strip() if event.lines else ""
        job.state = _STATES.get(event.number, job.state)
    return found
