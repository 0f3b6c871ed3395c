"""HTCondor's own event log, the text that it keeps of every job: what became of whom, without asking a daemon."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEAD = re.compile(r"(\d{3}) \(0*(\d+)\.0*(\d+)\.\d+\) \S+ \S+ (.*)")
_NODE = re.compile(r"^\s*DAG Node: (\S+)", re.MULTILINE)
_HOLD = re.compile(r"^\s*Code (\d+) Subcode (-?\d+)", re.MULTILINE)
_END = re.compile(
    r"^\s*\((?:0|1)\) (?:Normal termination \(return value (-?\d+)\)|Abnormal termination \(signal (\d+)\))",
    re.MULTILINE,
)
_DOTS = "\n...\n"
"""What ends an event."""
_BLOCK = 1 << 22
"""Characters read at a time: a log of 10^5 jobs has a quarter of a gigabyte."""
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
"""Event number -> state of the job after it; 005, its end, is done or failed."""
_MATTER = {*_STATES, "005", "040"}
"""Other events change nothing, and there are many of them."""


@dataclass(slots=True)
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


@dataclass(slots=True)
class Event:
    """One event: its number, ``cluster.process``, what its first line says, and the other lines."""

    number: str
    job: str
    text: str
    more: str

    def find(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        return pattern.search(self.more)

    @property
    def second(self) -> str:
        """The line after the first."""
        return self.more.partition("\n")[0].strip()


def events(path: Path) -> Iterator[Event]:
    """Whole events only, of those that matter: one that is being written ends without its line of dots."""
    for whole in _whole(path):
        if whole[:3] in _MATTER and (head := _HEAD.match(whole)):
            number, cluster, process, text = head.groups()
            yield Event(number, f"{cluster}.{process}", text, whole[head.end() + 1 :])


def _whole(path: Path) -> Iterator[str]:
    """The text of each event without its line of dots."""
    if not path.exists():
        return
    rest = ""
    with path.open(encoding="utf-8", errors="replace") as stream:
        while block := stream.read(_BLOCK):
            *found, rest = (rest + block).split(_DOTS)
            yield from found


def jobs(path: Path) -> dict[str, Job]:
    """Id -> job, in the order of submission."""
    found: dict[str, Job] = {}
    for event in events(path):
        job = found.setdefault(event.job, Job(event.job))
        match event.number:
            case "000":
                node = event.find(_NODE)
                job.node = node[1] if node else ""
            case "001":
                job.starts += 1
            case "040" if event.text.startswith("Finished transferring output"):
                job.checkpoints += 1
            case "012":
                job.detail = event.second
                if code := event.find(_HOLD):
                    job.code, job.subcode = int(code[1]), int(code[2])
            case "005":
                job.checkpoints -= 1  # the last transfer was of the results
                end = event.find(_END)
                job.state = "done" if end and end[1] == "0" else "failed"
                if end and job.state == "failed":
                    job.detail = f"signal {end[2]}" if end[2] else f"exit code {end[1]}"
            case "009":
                job.detail = event.second
        job.state = _STATES.get(event.number, job.state)
    return found
