"""Looking at real runs from outside: their processes and what their ledgers say."""

import json
import time
from pathlib import Path

MARK = "LENSPIPE_TEST_MARK"
"""Environment variable by which every process of a run is known."""


def marked(mark):
    """Processes that bear `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def until(look, seconds=200.0):
    """What `look` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {look}")


def events(root, kind):
    """(stage, key) -> the ledger's events of a kind, in order; those of tasks count for each of their keys."""
    found = {}
    for line in (root / ".lenspipe/ledger.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == kind:
            for key in event.get("keys", [event.get("key")]):
                found.setdefault((event["stage"], key), []).append(event)
    return found


def ended(root):
    """(stage, key) -> receipts."""
    return events(root, "unit")
