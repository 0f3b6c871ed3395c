"""Objects to shards by any number of ranks: blocks of a fixed number of objects are dealt out by turns.

Which block an object belongs to follows from its place in the input alone, so the shards are the same bytes however
many ranks write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from lenspipe.errors import LenspipeError, Reason
from lenspipe.io import shards
from lenspipe.io.layouts import Entry, Place, Reader, safe_key
from lenspipe.io.mend import pad_to
from lenspipe.ranks import Ranks, current


@dataclass(frozen=True)
class Work:
    """What is to be converted.

    Attributes
    ----------
    places : to read, in this order.
    folder : for the pieces, one file for the objects of a block that fit together.
    size : objects of a block.
    labels : classes by id, the product of the stage ``label``.
    """

    reader: Reader
    places: list[Place]
    folder: Path
    size: int
    labels: Path | None = None


@dataclass(frozen=True)
class Row:
    """What became of one object.

    Attributes
    ----------
    number : in the order of the input.
    entry : without its pixels.
    piece : file that holds it, empty where there is none.
    """

    number: int
    entry: Entry
    piece: str = ""
    ra: float = float("nan")
    dec: float = float("nan")
    notes: str = ""

    @property
    def place(self) -> str:
        """File and row, for messages."""
        return f"{self.entry.file}, row {self.entry.row}" if self.entry.row >= 0 else self.entry.file


def convert(work: Work) -> list[Row]:
    """All objects, in order; of those with the same id the first one is kept."""
    ranks = current()
    counted: dict[int, int] = dict(item for part in ranks.together(_count, work) for item in part)
    counts = [counted[number] for number in range(len(work.places))]
    rows = _merged(ranks.together(_write, work, counts, {}, None))
    if twice := _twice(rows):
        again = {number // work.size for number in twice}
        kept = [row for row in rows if row.number // work.size not in again]
        rows = _merged([kept, *ranks.together(_write, work, counts, twice, again)])
    return rows


def _merged(parts: Iterable[list[Row]]) -> list[Row]:
    """In order; a file that fails as a whole does so once, not on every rank that looked into it."""
    found: dict[Any, Row] = {}
    for row in sorted((row for part in parts for row in part), key=lambda row: row.number):
        whole = not row.piece and row.entry.row < 0
        found.setdefault((row.entry.file, row.entry.detail) if whole else row.number, row)
    return list(found.values())


def _twice(rows: list[Row]) -> dict[int, str]:
    """Number -> sentence, of objects whose id is already that of another."""
    first: dict[str, Row] = {}
    found = {}
    for row in rows:
        if row.piece and (other := first.setdefault(row.entry.key, row)) is not row:
            found[row.number] = f"{row.place}: the id {row.entry.key} is already that of {other.place}, which is kept."
    return found


def _count(ranks: Ranks, work: Work) -> list[tuple[int, int]]:
    """(number of the place, objects in it), of this rank's share of the places."""
    mine = range(ranks.rank, len(work.places), ranks.size)
    return [(number, work.reader.count(work.places[number])) for number in mine]


def _write(ranks: Ranks, work: Work, counts: list[int], without: Mapping[int, str], only: set[int] | None) -> list[Row]:
    """Read and write this rank's blocks, or of these `only` some; `without` says which objects fail, and why."""
    labels = _Labels(work.labels) if work.labels else None
    block = _Block(work, -1)
    rows: list[Row] = []
    for number, entry in _entries(ranks, work, counts, only):
        if number // work.size != block.number:
            block.write()
            block = _Block(work, number // work.size)
        if number in without:
            entry = Entry(
                safe_key(entry.key), entry.file, entry.row, reason=str(Reason.ID_DUPLICATE), detail=without[number]
            )
        if (made := entry.cutout) is None:
            rows.append(Row(number, entry))
            continue
        piece = block.add(entry if labels is None else replace(entry, label=labels.of(entry.key)))
        bare = replace(entry, cutout=None, label=None, table={}, units={})
        rows.append(Row(number, bare, piece, made.ra, made.dec, "; ".join(made.notes)))
    block.write()
    return rows


def _entries(ranks: Ranks, work: Work, counts: list[int], only: set[int] | None) -> Iterator[tuple[int, Entry]]:
    """This rank's objects with their numbers."""
    for place, first, count in zip(work.places, accumulate(counts, initial=0), counts):
        blocks = range(first // work.size, (first + count - 1) // work.size + 1)
        mine = [b for b in blocks if b % ranks.size == ranks.rank and (only is None or b in only)]
        wanted = [
            number - first
            for b in mine
            for number in range(max(first, b * work.size), min(first + count, (b + 1) * work.size))
        ]
        if wanted:
            for entry in work.reader.entries(place, wanted):
                yield first + (entry.row if entry.row >= 0 else wanted[0]), entry


class _Block:
    """Objects of one block: those that fit together go to one piece."""

    def __init__(self, work: Work, number: int):
        self.number = number
        self._work = work
        self._pieces: dict[Any, list[Entry]] = {}

    def add(self, entry: Entry) -> str:
        made = entry.cutout
        assert made is not None
        alike = (made.bands, made.shape, made.pixel_scale, made.unit, entry.label is not None, tuple(entry.table))
        self._pieces.setdefault(alike, []).append(entry)
        return self._name(list(self._pieces).index(alike))

    def write(self) -> None:
        for group, entries in enumerate(self._pieces.values()):
            cutouts = [entry.cutout for entry in entries if entry.cutout is not None]
            size = max(c.psf.shape[1] for c in cutouts), max(c.psf.shape[2] for c in cutouts)
            cutouts = [replace(c, psf=pad_to(c.psf, size)) for c in cutouts]
            table = {name: np.array([entry.table[name] for entry in entries]) for name in entries[0].table}
            label = None if entries[0].label is None else np.stack([e.label for e in entries if e.label is not None])
            extra = shards.Extra(label, table, entries[0].units)
            shards.write(self._work.folder / self._name(group), cutouts, extra)

    def _name(self, group: int) -> str:
        return f"{self.number:09d}-{group:03d}.h5"


class _Labels:
    """Class numbers by id, read as they are wanted."""

    def __init__(self, path: Path):
        import h5py

        self._file = h5py.File(path, "r")
        self._rows = {i.decode(): row for row, i in enumerate(self._file["id"][:])}

    def of(self, name: str) -> Any:
        if name not in self._rows:
            raise LenspipeError(f"{self._file.filename}: no label for the object {name}.")
        return self._file["label"][self._rows[name]]
