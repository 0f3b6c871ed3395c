"""Room on the disk, before anything long begins."""

from __future__ import annotations

import os
from pathlib import Path

_OVERHEAD = 1.02
"""Of an HDF5 file over the bytes of its arrays, the index of the chunks included."""
_FACTS = 1 << 20
"""Bytes for what little there is beside the arrays: names, shapes, attributes."""


def of_arrays(size: int) -> int:
    """Bytes of an HDF5 file with arrays of `size` bytes."""
    return int(_OVERHEAD * size) + _FACTS


def reserve(path: Path, size: int) -> None:
    """Give the file `path` at least `size` bytes of the disk now; `OSError` where there is no room."""
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, size)
