"""One run at a time in a folder: a lock file that names its holder."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lenspipe.errors import LenspipeError
from lenspipe.run.folder import LOCK


def holder(root: Path) -> dict[str, Any] | None:
    """Who holds `root`: ``pid host user since started``; None if nobody does."""
    try:
        found: dict[str, Any] = json.loads((root / LOCK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def is_stale(who: dict[str, Any]) -> bool:
    """True if the holder ran on this host and its process is gone, or its number now belongs to another process."""
    if who["host"] != socket.gethostname():
        return False
    try:
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return who["started"] is not None and _start_time(who["pid"]) != who["started"]


def describe(who: dict[str, Any]) -> str:
    return f"process {who['pid']} of {who['user']} on {who['host']} since {who['since']}"


@contextlib.contextmanager
def hold(root: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of `root`; `LenspipeError` names its holder. A dead one's lock is taken over, and `say` told."""
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f".lock.{uuid.uuid4().hex[:12]}")
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "started": _start_time(os.getpid()),
    }
    mine.write_text(json.dumps(me) + "\n", encoding="utf-8")
    try:
        _take(mine, path, root, say)
    finally:
        mine.unlink()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(mine: Path, path: Path, root: Path, say: Callable[[str], None]) -> None:
    """Link, not write: the lock appears whole or not at all, and for one process only."""
    for _ in range(10):
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
            return
        who = holder(root)
        if who is None:
            continue
        if not is_stale(who):
            raise LenspipeError(
                f"{root}: in use by {describe(who)}; wait for it or, if it is surely dead, remove {path}."
            )
        aside = path.with_name(f".stale.{uuid.uuid4().hex[:12]}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, aside)
            taken = json.loads(aside.read_text(encoding="utf-8"))
            if taken != who:  # another run was faster and this is its lock: give it back
                os.link(aside, path)
            else:
                say(f"taking over from {describe(who)}, which is dead")
            aside.unlink()
    raise LenspipeError(f"{root}: its lock {path} keeps changing hands; try again.")


def _start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot, None where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rsplit(")", 1)[1].split()[19])
