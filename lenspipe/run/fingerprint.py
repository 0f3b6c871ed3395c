"""Content hashes, never taken twice of a file that has kept its size and time."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from lenspipe.io.atomic import content_hash
from lenspipe.stage import Stage


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
        self._known: dict[str, tuple[tuple[int, int], str]] = {}

    def learn(self, path: Path, record: dict[str, Any]) -> None:
        """What `record` said of `path` once; more keys than its own are let pass."""
        self._known[str(path)] = ((record["size"], record["mtime_ns"]), record["hash"])

    def record(self, path: Path) -> dict[str, Any] | None:
        """``hash size mtime_ns`` as they are now, None if there is nothing."""
        now = stamp(path)
        if now is None:
            return None
        known = self._known.get(str(path))
        if known is None or known[0] != now:
            known = self._known[str(path)] = (now, content_hash(path))
        return {"hash": known[1], "size": now[0], "mtime_ns": now[1]}

    def of(self, path: Path) -> str | None:
        """The content's hash as it is now, None if there is nothing."""
        record = self.record(path)
        return None if record is None else str(record["hash"])

    def outside(self, stage: Stage, config: Any) -> dict[str, dict[str, Any]]:
        """Path -> `record` of every file that the options of `stage` name and that can be read."""
        paths: list[Path] = []
        found = {}
        if stage.outside is not None:
            with suppress(OSError):  # what cannot be read is for the stage to say
                paths.extend(stage.outside(config))
        for path in paths:
            with suppress(OSError):
                if record := self.record(path):
                    found[path.as_posix()] = record
        return found

    def own(self, stage: Stage, config: Any) -> dict[str, str]:
        """Key -> hash of what the options of `stage` say of it alone, and of the files that this names."""
        if stage.own is None:
            return {}
        said = stage.own.read(config)
        return {key: options_hash([entry, [self.of(path) for path in paths]]) for key, (entry, paths) in said.items()}


def shared_options(stage: Stage, options: dict[str, Any]) -> dict[str, Any]:
    """The effective options that count for every unit."""
    return {name: value for name, value in options.items() if stage.own is None or name != stage.own.option}


def options_hash(options: Any) -> str:
    """Hash of options as plain JSON."""
    return hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=16).hexdigest()
