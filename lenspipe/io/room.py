"""Room on the disk, before anything long begins."""

from __future__ import annotations

import os
from pathlib import Path

_OVERHEAD = 1.02
"""Of an HDF5 file over the bytes of its arrays, the index of the chunks included."""


def of_arrays(size: int, facts: int = 0) -> int:
    """Bytes of an HDF5 file with arrays of `size` bytes, and `facts` bytes beside them."""
    return int(_OVERHEAD * size) + facts


def reserve(path: Path, size: int) -> None:
    """Give the file `path` at least `size` bytes of the disk now; `OSError` where there is no room.

    HDF5 cannot close a file where the disk fills under it, and takes the process down. It cuts a file that it opens
    again to the length that it used.
    """
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, size)
