"""FITS files that are one image and nothing else, read without astropy: a survey has 10^5 of them.

Whatever is not quite plain (extensions, scaled integers, long strings, a length that does not fit) is left to
`lenspipe.io.fits`, which says what is wrong with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2880
_LONGEST = 20 * _BLOCK
"""A header beyond this is for astropy."""
_CARD = re.compile(
    r"(?P<key>[A-Z0-9_-]{1,8}) *= *(?:'(?P<text>(?:[^']|'')*)'|(?P<flag>[TF])|(?P<int>[+-]?\d+)"
    r"|(?P<float>[+-]?(?:\d+\.?\d*|\.\d+)(?:[ED][+-]?\d+)?)|) *(?:/.*)?"
)
_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_SCALED = {"BSCALE", "BZERO", "BLANK", "XTENSION", "GROUPS"}
_WORDLESS = {"COMMENT", "HISTORY", ""}


class Cards(dict[str, Any]):
    """Keywords of a header and their values; `text` is the header as it stands in the file."""

    text: str = ""


@dataclass(frozen=True)
class PlainImage:
    """What `lenspipe.io.fits` gives for an HDU, of the only one."""

    header: Cards
    pixels: bytes
    name: str = "PRIMARY"
    is_image: bool = True

    @cached_property
    def data(self) -> NDArray[Any]:
        shape = [self.header[f"NAXIS{axis}"] for axis in range(self.header["NAXIS"], 0, -1)]
        pixels = np.frombuffer(self.pixels, _TYPES[self.header["BITPIX"]], count=prod(shape))
        return pixels.reshape(shape)


def plain_image(path: Path) -> PlainImage | None:
    """The image in `path`, None where the file is anything else or is not there."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_LONGEST)
            header = _cards(head) if head.startswith(b"SIMPLE  =") else None
            if header is None or _length(header) != path.stat().st_size:
                return None
            return PlainImage(header, head[len(header.text) :] + stream.read())
    except OSError:
        return None


def _length(header: Cards) -> int:
    """Bytes of a file with this header and one image, 0 where it is none or not a plain one."""
    axes: list[Any] = [header.get(f"NAXIS{axis + 1}") for axis in range(header.get("NAXIS") or 0)]
    plain = header["SIMPLE"] is True and header.get("BITPIX") in _TYPES and not _SCALED & header.keys()
    if not plain or len(axes) < 2 or not all(isinstance(n, int) and n > 0 for n in axes):
        return 0
    size = abs(header["BITPIX"]) // 8 * prod(axes)
    return len(header.text) + -(-size // _BLOCK) * _BLOCK


def _cards(content: bytes) -> Cards | None:
    """The header at the beginning of `content`, None where it does not end there or a card is of no simple kind."""
    cards = Cards()
    for start in range(0, len(content), 80):
        try:
            card = content[start : start + 80].decode("ascii")
        except UnicodeDecodeError:
            return None
        key = card[:8].rstrip()
        if key == "END":
            cards.text = content[: -(-(start + 80) // _BLOCK) * _BLOCK].decode("ascii", "replace")
            return cards
        if key in _WORDLESS:
            continue
        match = _CARD.fullmatch(card.rstrip())
        if match is None or key in cards:
            return None
        if match["text"] is not None:
            if match["text"].endswith("&"):  # goes on in the next card
                return None
            cards[key] = match["text"].replace("''", "'").rstrip()
        elif match["flag"]:
            cards[key] = match["flag"] == "T"
        elif match["int"]:
            cards[key] = int(match["int"])
        elif match["float"]:
            cards[key] = float(match["float"].replace("D", "E"))
    return None
