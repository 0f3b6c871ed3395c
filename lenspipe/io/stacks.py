"""FITS files of image stacks too large for memory: the headers first, then the images in pieces, the table last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from lenspipe.io.room import reserve

_BLOCK = 2880
Cards = Mapping[str, tuple[object, str]]
"""Keyword -> value and comment."""


class FitsStacks:
    """A new FITS file with an f4 image extension for each of `names`, all of `shape` (N, ...). Use it in a ``with``."""

    def __init__(self, path: Path, names: Sequence[str], shape: Sequence[int], primary: Cards, cards: Cards):
        self.path, self.shape = path, tuple(shape)
        self._size = 4 * int(np.prod(self.shape[1:]))
        length = -(-self._size * self.shape[0] // _BLOCK) * _BLOCK
        self._at: dict[str, int] = {}
        self._file = path.open("wb")
        self._file.write(_header(fits.PrimaryHDU(), primary))
        for name in names:
            # The array is only a shape: nothing of it is written.
            empty = np.broadcast_to(np.float32(0), self.shape)
            self._file.write(_header(fits.ImageHDU(empty, name=name), cards))
            self._at[name] = self._file.tell()
            self._file.seek(length, 1)
        self._file.flush()
        reserve(path, self._file.tell())

    def write(self, name: str, first: int, images: NDArray[np.floating]) -> None:
        """Put `images` (n, ...) from row `first` of the extension `name` on."""
        self._file.seek(self._at[name] + first * self._size)
        self._file.write(np.ascontiguousarray(images, dtype=">f4").tobytes())

    def finish(self, table: Table, name: str) -> None:
        """Append `table` as the last extension."""
        hdu = fits.table_to_hdu(table)
        hdu.name = name
        self._file.close()
        fits.append(str(self.path), hdu.data, hdu.header, verify=False)

    def __enter__(self) -> FitsStacks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _header(hdu: fits.PrimaryHDU | fits.ImageHDU, cards: Cards) -> bytes:
    for key, card in cards.items():
        hdu.header[key] = card
    text: str = hdu.header.tostring()
    return text.encode("ascii")
