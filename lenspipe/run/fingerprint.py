"""Content hashes, never taken twice of a file that has kept its size and time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lenspipe.io.atomic import content_hash


def stamp(path: Path) -> tuple[int, int] | None:
    """(bytes, mtime in ns) of a file; of a folder, the sum and the newest of all that is in it; None if missing."""
    try:
        status = path.stat()
        if not path.is_dir():
            return status.st_size, status.st_mtime_ns
        inside = [item.stat() for item in path.rglob("*")]
    except FileNotFoundError:
        return None
    size = sum(item.st_size for item in inside)
    return size, max([status.st_mtime_ns, *(item.st_mtime_ns for item in inside)])


class Fingerprints:
    """path -> hash, remembered with the stamp under which it was taken."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}

    def learn(self, path: Path, size: int, mtime_ns: int, digest: str) -> None:
        self._known[path] = ((size, mtime_ns), digest)

    def of(self, path: Path) -> str | None:
        """The content's hash as it is now, None if there is nothing."""
        now = stamp(path)
        if now is None:
            return None
        known = self._known.get(path)
        if known is None or known[0] != now:
            known = self._known[path] = (now, content_hash(path))
        return known[1]


def options_hash(options: dict[str, Any]) -> str:
    """Hash of a stage's effective options."""
    return hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=16).hexdigest()
