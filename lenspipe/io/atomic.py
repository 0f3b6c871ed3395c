"""Nothing half-written ever bears its final name: write beside, then rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def temporary(final: Path) -> Path:
    """A fresh hidden name in `final`'s own folder (same filesystem), keeping its suffix."""
    final.parent.mkdir(parents=True, exist_ok=True)
    return final.with_name(f".{uuid.uuid4().hex[:12]}.tmp.{final.name}")


def commit(temp: Path, final: Path) -> None:
    """Give `temp` (file or folder) its final name, replacing what was there."""
    if temp.is_dir():
        for item in temp.rglob("*"):
            if item.is_file():
                _sync(item)
        if final.exists():
            old = temporary(final)
            os.replace(final, old)
            os.replace(temp, final)
            shutil.rmtree(old)
            return
    else:
        _sync(temp)
    os.replace(temp, final)


def discard(temp: Path) -> None:
    """Remove `temp`, file or folder, if it is there."""
    if temp.is_dir():
        shutil.rmtree(temp, ignore_errors=True)
    else:
        temp.unlink(missing_ok=True)


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """``with replacing(path) as temp: write(temp)``: `path` changes only if the block ends without an error."""
    temp = temporary(final)
    try:
        yield temp
        commit(temp, final)
    except BaseException:
        discard(temp)
        raise


def write_json(final: Path, data: Any) -> None:
    """Strict JSON (NaN and infinities refused by the encoder), indented, atomically."""
    with replacing(final) as temp:
        temp.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def content_hash(path: Path) -> str:
    """BLAKE2b hex digest of a file, or of the names and contents of a folder's files."""
    digest = hashlib.blake2b(digest_size=16)
    if path.is_dir():
        for item in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{item.relative_to(path).as_posix()}\0{content_hash(item)}\0".encode())
    else:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
