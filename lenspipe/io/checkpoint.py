"""How far a long computation has come, in one file: npz, whose members carry checksums; no pickle in or out."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.io.atomic import discard, replacing

log = logging.getLogger(__name__)

_SHARE = 0.02
"""Of the time, at most so much goes into saving."""
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def digest(*things: Any) -> str:
    """Hash of dataclasses, arrays and plain values: equal where they are equal to the last bit."""
    found = hashlib.blake2b(digest_size=16)

    def add(thing: Any) -> None:
        if is_dataclass(thing):
            for field in fields(thing):
                add(field.name)
                add(getattr(thing, field.name))
        elif isinstance(thing, np.ndarray):
            found.update(f"{thing.dtype.str}{thing.shape}".encode() + np.ascontiguousarray(thing).tobytes())
        else:
            found.update(json.dumps(thing, sort_keys=True).encode() + b"\0")

    for thing in things:
        add(thing)
    return found.hexdigest()


class FileCheckpoint:
    """Named parts, each a dict of arrays, in the file `path`.

    Parameters
    ----------
    identity : of all that the outcome depends on (`digest`); a file that states another is passed over.
    every : seconds between two saves, at least.

    Attributes
    ----------
    spent : seconds that earlier processes gave to what the file holds.
    """

    def __init__(self, path: Path, identity: str, every: float = 30.0):
        self.path, self.identity, self.every = path, identity, every
        self.spent = 0.0
        self._parts: dict[str, dict[str, NDArray[Any]]] = {}
        self._read()
        self._began = self._saved = time.monotonic()
        self._cost = 0.0

    def load(self, part: str) -> dict[str, NDArray[Any]] | None:
        return self._parts.get(part)

    def save(self, part: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._parts[part] = dict(arrays)
        begun = time.monotonic()
        members = {f"{p}/{n}": a for p, content in self._parts.items() for n, a in content.items()}
        spent = np.array(self.spent + begun - self._began)
        with replacing(self.path) as temp, temp.open("wb") as stream:
            np.savez(stream, allow_pickle=False, identity=np.array(self.identity), spent=spent, **members)
        self._saved = time.monotonic()
        self._cost = self._saved - begun

    def due(self) -> bool:
        return time.monotonic() - self._saved >= max(self.every, self._cost / _SHARE)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        for old in self.path.parent.glob(f".*.tmp.{self.path.name}"):
            discard(old)
        if not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as members:
                if str(members["identity"]) != self.identity:
                    log.info("%s is of another configuration or other data: it is not used", self.path)
                    return
                spent = float(members["spent"])
                parts: dict[str, dict[str, NDArray[Any]]] = {}
                for name in members.files:
                    part, slash, inner = name.partition("/")
                    if slash:
                        parts.setdefault(part, {})[inner] = members[name]
        except _DAMAGED as error:
            log.warning("%s is damaged and is not used (%s)", self.path, error)
            return
        self.spent, self._parts = spent, parts
