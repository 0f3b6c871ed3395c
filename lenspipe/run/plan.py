"""Whether a unit must run, and why."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenspipe.run.fingerprint import Fingerprints
from lenspipe.run.folder import config_path


@dataclass(frozen=True)
class Wanted:
    """What a unit's receipt would say of its origin if it ran now."""

    config: dict[str, Any]
    config_hash: str
    own: str
    seed: int
    version: int
    inputs: dict[str, str]
    outside: dict[str, dict[str, Any]]


def reason_to_run(entry: dict[str, Any] | None, wanted: Wanted, root: Path, prints: Fingerprints) -> str:
    """Why the unit with ledger entry `entry` must run again; empty if what it left still holds.

    Site, batch size and anything else that cannot change the outcome play no part.
    """
    if entry is None:
        return "new"
    if entry["version"] != wanted.version:
        return f"stage version {entry['version']} -> {wanted.version}"
    if entry["config_hash"] != wanted.config_hash:
        return f"config changed: {_changes(entry['config_hash'], wanted.config, root)}"
    if entry.get("own", "") != wanted.own:
        return "what the options say of it alone changed"
    if entry["seed"] != wanted.seed:
        return "seed changed"
    return (
        _difference("input", entry["inputs"], wanted.inputs)
        or _difference("file", _hashes(entry["outside"]), _hashes(wanted.outside))
        or _outputs_reason(entry["outputs"], root, prints)
    )


def strangers(own: Iterable[str], keys: Collection[str], stage: str) -> list[str]:
    """A sentence on each key of which the options say something and which the stage has not."""
    found = []
    for name in sorted(set(own).difference(keys)):
        close = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
        found.append(f"{stage}: {name!r}, of which the options say something, is not among its {len(keys)} units"
                     + (f"; did you mean {close[0]!r}?" if close else "."))  # fmt: skip
    return found


def _hashes(records: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {path: record["hash"] for path, record in records.items()}


def _difference(kind: str, old: dict[str, str], new: dict[str, str]) -> str:
    if old == new:
        return ""
    changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    for what, names in (("changed", changed), ("new", sorted(new.keys() - old.keys()))):
        if names:
            return f"{kind} {what}: {_some(names)}"
    return f"{kind} gone: {_some(sorted(old.keys() - new.keys()))}"


def _outputs_reason(outputs: dict[str, dict[str, Any]], root: Path, prints: Fingerprints) -> str:
    for name, was in outputs.items():
        now = prints.of(root / was["path"])
        if now is None:
            return f"output missing: {name}"
        if now != was["hash"]:
            return f"output changed: {name}"
    return ""


def _changes(old_hash: str, new: dict[str, Any], root: Path) -> str:
    """``key old -> new`` of the options that differ."""
    path = config_path(root, old_hash)
    if not path.exists():
        return "the old options are not on record"
    old = _flat(json.loads(path.read_text(encoding="utf-8")))
    flat = _flat(new)
    missing = "(none)"
    keys = [key for key in {**old, **flat} if old.get(key, missing) != flat.get(key, missing)]
    return _some([f"{key} {old.get(key, missing)} -> {flat.get(key, missing)}" for key in keys])


def _flat(options: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(options, dict) or not options:
        return {prefix: options}
    found: dict[str, Any] = {}
    for key, value in options.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return found


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
