"""One run at a time in a folder: a lock file that names its holder and is touched as long as that lives.

A holder that is dead loses its lock, and so does one that may not be: an earlier start of the same batch job, or a
process of another machine that has long been silent. Such a one finds that out before its next word in the ledger.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lenspipe.errors import LenspipeError
from lenspipe.run.folder import CANCEL, LOCK

BEAT = 20.0
"""Seconds between two touches of a lock."""
SILENCE = 300.0
"""Seconds without a touch after which a holder on another machine counts as dead."""
_SETTLE = 2.0
"""Seconds to wait where the last holder may be alive: it looks at the lock before each word it writes."""


class TakenOver(LenspipeError):
    """Another process holds the folder now; this one must not write there any more."""


class Held:
    """A lock in one's hands."""

    def __init__(self, root: Path, me: dict[str, Any]):
        self._root, self._me = root, me

    def check(self) -> None:
        """`TakenOver` if it is not mine any more."""
        who = holder(self._root)
        if who != self._me:
            now = f"{describe(who)} has taken it over" if who else f"its lock {self._root / LOCK} was removed"
            raise TakenOver(f"{self._root}: {now}; this process stops.")

    def beat(self, ended: threading.Event) -> None:
        """Touch the lock until `ended`, or until it is somebody else's."""
        while not ended.wait(BEAT):
            try:
                self.check()
                os.utime(self._root / LOCK)
            except (TakenOver, OSError):
                return


def holder(root: Path) -> dict[str, Any] | None:
    """Who holds `root`: ``pid host user since started token job restart``; None if nobody does."""
    try:
        found: dict[str, Any] = json.loads((root / LOCK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def is_stale(root: Path, who: dict[str, Any]) -> bool:
    """True if the holder ran here and its process is gone, or its number now belongs to another process; or if it ran
    elsewhere and has not touched its lock for long."""
    if who["host"] != socket.gethostname():
        try:
            return time.time() - (root / LOCK).stat().st_mtime > SILENCE
        except FileNotFoundError:
            return False
    try:
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return who["started"] is not None and _start_time(who["pid"]) != who["started"]


def _is_my_old_self(who: dict[str, Any], me: dict[str, Any]) -> bool:
    """The same batch job started it and has been started again since."""
    return who.get("job") is not None and who["job"] == me["job"] and who["restart"] < me["restart"]


def describe(who: dict[str, Any]) -> str:
    return f"process {who['pid']} of {who['user']} on {who['host']} since {who['since']}"


@contextlib.contextmanager
def hold(root: Path, say: Callable[[str], None]) -> Iterator[Held]:
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
        "token": mine.suffix[1:],
        "job": os.environ.get("SLURM_JOB_ID"),
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }
    mine.write_text(json.dumps(me) + "\n", encoding="utf-8")
    try:
        _take(mine, me, path, root, say)
    finally:
        mine.unlink()
    (root / CANCEL).unlink(missing_ok=True)  # meant for an earlier one
    held, ended = Held(root, me), threading.Event()
    threading.Thread(target=held.beat, args=[ended], daemon=True).start()
    try:
        yield held
    finally:
        ended.set()
        with contextlib.suppress(TakenOver):
            held.check()
            path.unlink(missing_ok=True)


def _take(mine: Path, me: dict[str, Any], path: Path, root: Path, say: Callable[[str], None]) -> None:
    """Link, not write: the lock appears whole or not at all, and for one process only."""
    alive = False
    for _ in range(10):
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
            time.sleep(_SETTLE if alive else 0)
            return
        who = holder(root)
        if who is None:
            continue
        dead, old_self = is_stale(root, who), _is_my_old_self(who, me)
        if not dead and not old_self:
            raise LenspipeError(
                f"{root}: in use by {describe(who)}; wait for it or, if it is surely dead, remove {path}."
            )
        alive = not dead or who["host"] != socket.gethostname()
        aside = path.with_name(f".stale.{uuid.uuid4().hex[:12]}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, aside)
            taken = json.loads(aside.read_text(encoding="utf-8"))
            if taken != who:  # another run was faster and this is its lock: give it back
                os.link(aside, path)
            else:
                say(f"taking over from {describe(who)}, {'which is dead' if dead else 'an earlier start of this job'}")
            aside.unlink()
    raise LenspipeError(f"{root}: its lock {path} keeps changing hands; try again.")


def _start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot, None where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rsplit(")", 1)[1].split()[19])
