"""A run's results, copied to where they are kept: scratch filesystems are purged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lenspipe.errors import LenspipeError
from lenspipe.io.atomic import replacing
from lenspipe.run.folder import STATE

_NOT_KEPT = ("parsl", "logs")


def publish(root: Path, to: Path) -> tuple[Path, int]:
    """Copy run folder `root` into `to`: products, receipts and ledger, neither logs nor what is half-written.

    A file that is there with the same size and time is left alone: publishing again is quick. Returns the folder of the
    copy and how many files were copied.
    """
    if not (root / STATE).is_dir():
        raise LenspipeError(f"{root}: not a run folder (it has no {STATE}).")
    target = to / root.resolve().name
    if target.resolve() == root.resolve():
        raise LenspipeError(f"{to}: the run lies there already.")
    copied = 0
    for path in _kept(root):
        final = target / path.relative_to(root)
        if final.exists() and _same(path, final):
            continue
        with replacing(final) as temp:
            shutil.copy2(path, temp)
        copied += 1
    return target, copied


def _kept(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        here = Path(folder)
        below[:] = sorted(name for name in below if not name.startswith(".") or (here == root and name == STATE))
        if here == root / STATE:
            below[:] = [name for name in below if name not in _NOT_KEPT]
            files = [name for name in files if name.endswith(".jsonl")]
        yield from (here / name for name in sorted(files) if not name.startswith("."))


def _same(path: Path, copy: Path) -> bool:
    """Whether `copy` is of what `path` is now, by size and time."""
    ours, theirs = path.stat(), copy.stat()
    second = 10**9
    # Not every filesystem keeps more than the second; where it does, a file that changed within one is seen.
    unit = second if theirs.st_mtime_ns % second == 0 else 1
    return ours.st_size == theirs.st_size and ours.st_mtime_ns // unit == theirs.st_mtime_ns // unit
