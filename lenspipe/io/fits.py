"""FITS files as users have them: gzipped or not, big-endian, sometimes cut short."""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from numpy.typing import NDArray

from lenspipe.errors import CandidateError, Reason
from lenspipe.io.plain import Cards, plain_image

_END = b"END     "
_LONGEST = 2880 * 100
"""Bytes in which the END of a header is looked for."""


def stem(path: Path) -> str:
    """File name without ``.fits``, ``.fits.gz`` and their like."""
    return re.sub(r"(\.(fits|fit|fts))?(\.(gz|fz))?$", "", path.name, flags=re.IGNORECASE)


def is_fits(path: Path) -> bool:
    """Whether the name says FITS."""
    return bool(re.search(r"\.(fits|fit|fts)(\.(gz|fz))?$", path.name, flags=re.IGNORECASE))


@contextmanager
def opened(path: Path) -> Iterator[tuple[Sequence[Any], list[str]]]:
    """The whole file's HDUs and notes on what was odd; `CandidateError` where data are missing.

    astropy only warns of a file that ends too early, and then makes up or drops the rest; here it is an error, unless
    nothing but the padding of the last block is missing.
    """
    if (plain := plain_image(path)) is not None:
        yield [plain], []
        return
    try:
        stream, length, memmap = _source(path)
    except FileNotFoundError:
        raise CandidateError(Reason.FILE_MISSING, f"{path}: there is no such file.") from None
    except (EOFError, zlib.error):
        raise CandidateError(Reason.FILE_TRUNCATED, f"{path}: the gzip stream ends too early.") from None
    except OSError as error:
        raise CandidateError(Reason.FILE_UNREADABLE, f"{path}: cannot be read ({error}).") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            hdus = fits.open(stream, memmap=memmap, lazy_load_hdus=False)
        except Exception as error:  # astropy raises many kinds on what is not FITS
            cards = _cards(path, stream, 0)
            if not cards or (cards[0].startswith(b"SIMPLE") and _END not in cards):
                raise CandidateError(Reason.FILE_TRUNCATED, f"{path}: ends inside its first header.") from None
            raise CandidateError(Reason.FILE_UNREADABLE, f"{path}: not a FITS file ({error}).") from None
        with hdus:
            try:
                yield hdus, _check_length(path, hdus, stream, length)
            except fits.VerifyError as error:
                raise CandidateError(Reason.FILE_UNREADABLE, f"{path}: a header is damaged ({error}).") from None


def image_data(hdu: Any, where: str) -> NDArray[Any]:
    """An image HDU's pixels as they lie in the file: big-endian, mapped where that is possible."""
    try:
        data = np.asarray(hdu.data)
    except Exception as error:  # a damaged compressed image raises many kinds
        raise CandidateError(Reason.FILE_UNREADABLE, f"{where}: the pixels cannot be read ({error}).") from None
    if data.dtype.kind not in "fiu":
        raise CandidateError(Reason.FILE_UNREADABLE, f"{where}: no pixels.")
    return data


def is_image(hdu: Any) -> bool:
    """Whether it is an image HDU with pixels."""
    return bool(hdu.is_image and hdu.header.get("NAXIS", 0) >= 2)


def sky_position(header: Mapping[str, Any], shape: tuple[int, int]) -> tuple[NDArray[np.float64], float, float] | None:
    """CD matrix (2, 2) in degrees of (RA cos Dec, Dec) per pixel (x, y) at the image's centre, its RA and Dec.

    Taken by finite differences of the full WCS, so that rotation, distortion and a cutout far from the tangent point
    are all in it. None where the header has no celestial WCS.
    """
    if "CTYPE1" not in header:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(header.text if isinstance(header, Cards) else header).celestial
            if not wcs.has_celestial:
                return None
            x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
            points = np.array([[x, y], [x - 5, y], [x + 5, y], [x, y - 5], [x, y + 5]])
            sky = [p.icrs for p in wcs.pixel_to_world(*points.T)]
        except Exception:  # a WCS that cannot be evaluated is no WCS
            return None
    ra, dec = np.array([p.ra.deg for p in sky]), np.array([p.dec.deg for p in sky])
    step_ra = (np.diff(ra)[[1, 3]] + 180) % 360 - 180
    cd = np.array([step_ra * np.cos(np.radians(dec[0])), np.diff(dec)[[1, 3]]]) / 10
    return (cd, float(ra[0]), float(dec[0])) if np.isfinite(cd).all() and np.linalg.det(cd) != 0 else None


def _source(path: Path) -> tuple[Any, int, bool]:
    """What to give astropy, the number of bytes of FITS in it, and whether it may be mapped."""
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    if not zipped:
        return path, path.stat().st_size, True
    with gzip.open(path) as stream:
        content = stream.read()
    return BytesIO(content), len(content), False


def _check_length(path: Path, hdus: fits.HDUList, stream: Any, length: int) -> list[str]:
    notes, end = [], 0
    for number, hdu in enumerate(hdus):
        if not hasattr(hdu, "fileinfo"):
            raise CandidateError(Reason.FILE_UNREADABLE, f"{path}: the header of HDU {number} is damaged.")
        info = hdu.fileinfo()
        end = info["datLoc"] + info["datSpan"]
        needed = info["datLoc"] + (0 if isinstance(hdu, fits.CompImageHDU) else hdu.size)
        if needed > length:
            raise CandidateError(
                Reason.FILE_TRUNCATED,
                f"{path}: HDU {number} ({hdu.name or 'unnamed'}) needs {needed} bytes, the file ends at {length}.",
            )
    if end > length:
        notes.append("the file lacks the padding of its last block, no data")
        return notes
    # astropy silently leaves out what comes after a header that it cannot read.
    cards = _cards(path, stream, end)
    if _END in cards:
        raise CandidateError(Reason.FILE_UNREADABLE, f"{path}: the header of HDU {len(hdus)} is damaged.")
    if cards and cards[0] == b"XTENSION":
        raise CandidateError(Reason.FILE_TRUNCATED, f"{path}: ends inside the header of HDU {len(hdus)}.")
    return notes


def _cards(path: Path, stream: Any, offset: int) -> list[bytes]:
    """First eight bytes of each card from `offset` on."""
    if isinstance(stream, BytesIO):
        content = stream.getvalue()[offset : offset + _LONGEST]
    else:
        with path.open("rb") as raw:
            raw.seek(offset)
            content = raw.read(_LONGEST)
    return [content[i : i + 8] for i in range(0, len(content), 80)]
