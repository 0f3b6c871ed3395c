"""The layouts in which users bring many candidates: tables of cutouts, stacks per band, folders, single files."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lenspipe.errors import CandidateError, LenspipeError, Reason
from lenspipe.io import fits
from lenspipe.io.arrays import Images, is_array, read_array
from lenspipe.io.candidate import band_note, header_zero_point, read_candidate, sky_facts
from lenspipe.io.mend import Raw, SigmaMap, cutout
from lenspipe.io.pictures import Pairs, is_picture, read_mask, read_picture
from lenspipe.io.survey import NoiseKind, SurveyFacts
from lenspipe.types import CLASSES, Cutout, check_id

log = logging.getLogger(__name__)

ID_COLUMNS = ("id", "COADD_OBJECT_ID", "Y6_COADD_OBJECT_ID", "OBJECT_ID")
_PLANES = ("g", "r", "i", "z")
"""Order of the planes of the reference system's files, for those that hold more bands than are wanted."""
Layout = Literal["auto", "table", "folders", "pictures", "arrays"]
Source = str | list[str] | Mapping[str, str]
"""Files, folders or globs; or one stack of cutouts a band. ``~`` and $VARIABLES are expanded."""
Place = Path | Mapping[str, str]
"""A folder of one candidate, a file, or one stack of cutouts a band."""
_PARTS = ("image", "noise", "psf", "mask")


@dataclass
class Entry:
    """One input object: a `Cutout`, or the reason why there is none (`key` is then safe as a file name)."""

    key: str
    file: str
    row: int = -1
    cutout: Cutout | None = None
    label: NDArray[np.uint8] | None = None
    table: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Reader:
    """How to read what is found; see the options of the stage ``convert``."""

    survey: SurveyFacts
    sigma_map: SigmaMap
    layout: Layout = "auto"
    noise_kind: NoiseKind = "sigma"
    id_column: str | None = None
    fwhm_unit: Literal["pixel", "arcsec"] | None = None
    pairs: Pairs = field(default_factory=Pairs)
    trust_pickle: bool = False

    def places(self, source: Source) -> list[Place]:
        """What `source` names, in order: folders and files, or one set of stacks by band."""
        return [source] if isinstance(source, Mapping) else list(_places(source, self.layout))

    def count(self, place: Place) -> int:
        """Objects in `place`: its rows, or one; one also where it cannot be read."""
        path = Path(_expand(next(iter(place.values())))) if isinstance(place, Mapping) else place
        if path.is_dir() or is_picture(path):
            return 1
        try:
            if is_array(path):
                return len(self._array(path)[0])
            with fits.opened(path) as (hdus, _):
                stack = next((hdu for hdu in hdus if fits.is_image(hdu)), None)
                stacked = isinstance(place, Mapping) or self._is_table(hdus, stack)
                return stack.header[f"NAXIS{stack.header['NAXIS']}"] if stacked and stack is not None else 1
        except CandidateError:
            return 1

    def entries(self, place: Place, rows: Sequence[int]) -> Iterator[Entry]:
        """The objects of one place in these of its `rows`; those that cannot be used with the reason."""
        if isinstance(place, Mapping):
            yield from self._guarded(Path(next(iter(place.values()))), self._band_stacks(place, rows))
        elif place.is_dir():
            yield self._folder(place)
        elif is_picture(place):
            yield from self._guarded(place, self._picture(place))
        elif is_array(place):
            yield from self._guarded(place, self._array_rows(place, rows))
        else:
            yield from self._guarded(place, self._file(place, rows))

    def _guarded(self, path: Path, entries: Iterator[Entry]) -> Iterator[Entry]:
        """`entries`; a file that fails as a whole becomes one failed entry."""
        try:
            yield from entries
        except Exception as error:  # one file never stops the others
            yield _failed(_stem(path), str(path), -1, error)

    def _folder(self, folder: Path) -> Entry:
        try:
            parts = _parts(folder)
            if "image" not in parts:
                raise CandidateError(Reason.FILE_MISSING, f"{folder}: no image.fits in this folder.")
            made = self._read(parts.pop("image"), folder.name, **parts)
        except Exception as error:  # one candidate never stops the others
            return _failed(folder.name, str(folder), -1, error)
        return Entry(made.id, str(folder), cutout=made)

    def _read(self, image: Path, name: str, **parts: Path) -> Cutout:
        return read_candidate(
            image, **parts, survey=self.survey, sigma_map=self.sigma_map, noise_kind=self.noise_kind, id=name
        )

    def _picture(self, path: Path) -> Iterator[Entry]:
        made = read_picture(path, self.survey, self.sigma_map)
        yield Entry(made.id, str(path), cutout=made, label=read_mask(path, self.pairs, made.shape))

    def _array(self, path: Path) -> tuple[Images, bool]:
        one_band = len(self.survey.bands) == 1 and self.layout != "folders"
        return read_array(path, one_band, self.trust_pickle)

    def _array_rows(self, path: Path, rows: Sequence[int]) -> Iterator[Entry]:
        images, several = self._array(path)
        bands, planes, notes = self._bands({}, len(images[0]), str(path))
        names = None if several else [path.stem]
        yield from self._rows(path, images, planes, bands, {}, None, None, notes, rows, names)

    def _is_table(self, hdus: Any, stack: Any) -> bool:
        """Whether the image HDU `stack` of a file holds a cutout in each row."""
        n_axes = 0 if stack is None else stack.header["NAXIS"]
        several = n_axes == 4 or (n_axes == 3 and (hasattr(hdus[-1], "columns") or len(self.survey.bands) == 1))
        return several and self.layout != "folders"

    def _file(self, path: Path, rows: Sequence[int]) -> Iterator[Entry]:
        with fits.opened(path) as (hdus, notes):
            stack = next((hdu for hdu in hdus if fits.is_image(hdu)), None)
            if self._is_table(hdus, stack):
                yield from self._table(path, hdus, stack, notes, rows)
                return
            single = stack is not None and stack.header["NAXIS"] in (2, 3)
        if self.layout == "table" or not single:
            raise CandidateError(
                Reason.LAYOUT_UNKNOWN,
                f"{path}: neither a stack of cutouts (N, bands, H, W) with a table nor the image of one candidate.",
            )
        made = self._read(path, fits.stem(path))
        yield Entry(made.id, str(path), cutout=made)

    def _table(self, path: Path, hdus: Any, stack: Any, notes: list[str], rows: Sequence[int]) -> Iterator[Entry]:
        images = fits.image_data(stack, str(path))
        images = images[:, None] if images.ndim == 3 else images
        table = hdus[-1] if hasattr(hdus[-1], "columns") else None
        if table is not None and len(table.data) != len(images):
            raise CandidateError(
                Reason.TABLE_LENGTH, f"{path}: {len(images)} images, but {len(table.data)} rows in the catalogue."
            )
        bands, planes, more = self._bands(stack.header, images.shape[1], str(path))
        notes = notes + more
        labels = self._labels(hdus, images)
        yield from self._rows(path, images, planes, bands, stack.header, table, labels, notes, rows)

    def _band_stacks(self, source: Mapping[str, str], rows: Sequence[int]) -> Iterator[Entry]:
        bands = self.survey.bands or tuple(source)
        if set(bands) != set(source):
            raise LenspipeError(f"source names the bands {list(source)}, survey.bands {list(bands)}.")
        stacks, headers, notes = [], [], []
        for band in bands:
            path = Path(_expand(source[band]))
            with fits.opened(path) as (hdus, found):
                hdu = next((hdu for hdu in hdus if fits.is_image(hdu)), None)
                data = None if hdu is None else np.array(fits.image_data(hdu, str(path)))
                if hdu is None or data is None or data.ndim != 3:
                    raise CandidateError(Reason.LAYOUT_UNKNOWN, f"{path}: no stack of cutouts (N, H, W).")
                stacks.append(data)
                headers.append(hdu.header)
                notes += [f"{path.name}: {note}" for note in found] + band_note(hdu.header, band, path.name)
        if len({stack.shape for stack in stacks}) > 1:
            raise CandidateError(
                Reason.SHAPE_MISMATCH, f"{path}: the bands' stacks have shapes {[s.shape for s in stacks]}."
            )
        first = Path(_expand(source[bands[0]]))
        planes = list(range(len(bands)))
        yield from self._rows(first, np.stack(stacks, axis=1), planes, bands, headers[0], None, None, notes, rows)

    def _bands(self, header: Any, n_planes: int, where: str) -> tuple[tuple[str, ...], list[int], list[str]]:
        """Names of the bands, the planes that hold them, and notes. Planes are named by BANDS in the header."""
        said = tuple(str(header.get("BANDS", "")).replace(",", " ").split())
        held = said if len(said) == n_planes else _PLANES[:n_planes]
        bands = self.survey.bands or held
        if len(bands) == n_planes:
            notes = band_note(header, bands[0], where) if n_planes == 1 else []
            if said and bands != said:
                notes.append(f"{where}: the header says bands {', '.join(said)}; used as {', '.join(bands)}")
            return bands, list(range(n_planes)), notes
        if len(held) < n_planes or not set(bands) <= set(held):
            raise CandidateError(
                Reason.BAND_MISSING,
                f"{where}: {n_planes} planes, taken as {', '.join(held)}; the workflow wants {', '.join(bands)}.",
            )
        return bands, [held.index(band) for band in bands], []

    def _labels(self, hdus: Any, images: NDArray[Any]) -> NDArray[Any] | None:
        """(N, C, H, W) one layer a class, in HDU 4 of a file of simulations; None where it holds none."""
        if len(hdus) < 5 or not fits.is_image(hdus[4]):
            return None
        layers = fits.image_data(hdus[4], "labels")
        expected = (len(images), len(CLASSES), *images.shape[2:])
        return layers if layers.shape == expected else None

    def _rows(
        self,
        path: Path,
        images: Images,
        planes: list[int],
        bands: tuple[str, ...],
        header: Any,
        table: Any,
        labels: NDArray[Any] | None,
        notes: list[str],
        rows: Sequence[int],
        names: list[str] | None = None,
    ) -> Iterator[Entry]:
        scale, cd, _, _, more = sky_facts(header, images[0].shape[1:], self.survey, str(path))
        # The header's place on the sky is that of one tile, not of each cutout.
        columns = _Columns(path, table, bands, len(images), self, scale)
        zero_point = self.survey.per_band("zero_point", bands)
        zero_point[np.isnan(zero_point)] = header_zero_point(header)
        ids = columns.ids or names
        for row in rows:
            name = ids[row] if ids is not None else f"{_stem(path)}-{row:06d}"
            where = f"{path}, row {row}"
            try:
                raw = Raw(
                    id=check_id(name, where),
                    where=f"{where} ({name})",
                    bands=bands,
                    image=images[row][planes],
                    pixel_scale=scale,
                    cd=cd,
                    unit=self.survey.unit or str(header.get("BUNIT", "")).strip(),
                    zero_point=zero_point,
                    ra=columns.number("RA", row),
                    dec=columns.number("DEC", row),
                    psf_fwhm=columns.fwhm[row],
                    psf_beta=self.survey.per_band("psf_beta", bands),
                    background_rms=columns.background_rms[row],
                    exposure_time=columns.exposure_time[row],
                    notes=notes + more + columns.notes,
                )
                made = cutout(raw, self.sigma_map)
            except Exception as error:  # one candidate never stops the others
                yield _failed(name, str(path), row, error)
                continue
            extra = {key: values[row] for key, values in columns.extra.items()}
            label = None if labels is None else np.argmax(labels[row], axis=0).astype(np.uint8)
            yield Entry(made.id, str(path), row, made, label, extra, columns.units)


class _Columns:
    """What the catalogue beside a stack says: facts per object and band, and the columns that travel along."""

    def __init__(self, path: Path, table: Any, bands: tuple[str, ...], n: int, reader: Reader, scale: float):
        self.path = path
        self.notes: list[str] = []
        self._table = table
        self._names = {name.upper(): name for name in (table.columns.names if table is not None else ())}
        self._used: set[str] = set()
        self.ids = self._ids(reader.id_column)
        survey = reader.survey
        self.background_rms = self._per_band("BACKGROUND_RMS", bands, survey, "background_rms", n)
        self.exposure_time = self._per_band("EXPOSURE_TIME", bands, survey, "exposure_time", n)
        self.fwhm = self._fwhm(bands, reader, scale, n)
        self._ra_dec = {key: self._column(key) for key in ("RA", "DEC")}
        self.extra: dict[str, NDArray[Any]] = {}
        self.units: dict[str, str] = {}
        for key, name in self._names.items():
            values = None if key in self._used else _native(table.data[name])
            if values is not None and values.dtype.kind in "biufU" and values.ndim == 1:
                self.extra[name.replace("/", "_")] = values
                self.units[name.replace("/", "_")] = str(table.columns[name].unit or "")
            elif values is not None:
                log.warning("%s: column %s is neither numbers nor text, one each row: left aside", path, name)

    def number(self, key: str, row: int) -> float:
        column = self._ra_dec[key]
        return float("nan") if column is None else float(column[row])

    def _column(self, name: str) -> NDArray[Any] | None:
        key = name.upper()
        if key not in self._names:
            return None
        self._used.add(key)
        return _native(self._table.data[self._names[key]])

    def _ids(self, wanted: str | None) -> list[str] | None:
        if self._table is None:
            return None
        for name in (wanted,) if wanted else ID_COLUMNS:
            if (column := self._column(name)) is not None:
                return [str(item).strip() for item in column.tolist()]
        raise CandidateError(
            Reason.COLUMN_MISSING,
            f"{self.path}: the catalogue has no column {wanted or ' or '.join(ID_COLUMNS)}; "
            f"it has {', '.join(self._table.columns.names[:12])}.",
        )

    def _per_band(
        self, prefix: str, bands: tuple[str, ...], survey: SurveyFacts, stated: str, n: int
    ) -> NDArray[np.float64]:
        """(N, B) values: the columns PREFIX_BAND, where they hold none what is stated."""
        values = np.tile(survey.per_band(stated, bands), (n, 1))
        for b, band in enumerate(bands):
            column = self._column(f"{prefix}_{band}")
            if column is not None:
                good = np.isfinite(column) & (column > 0)
                values[good, b] = column[good]
        return values

    def _fwhm(self, bands: tuple[str, ...], reader: Reader, scale: float, n: int) -> NDArray[np.float64]:
        """(N, B) arcsec."""
        values = np.tile(reader.survey.per_band("psf_fwhm", bands), (n, 1))
        for b, band in enumerate(bands):
            column = self._column(f"FWHM_WMEAN_{band}")
            if column is None:
                continue
            name = self._names[f"FWHM_WMEAN_{band}".upper()]
            said = str(self._table.columns[name].unit or "").strip().lower()
            unit = {"arcsec": "arcsec", "arcsecond": "arcsec", "pix": "pixel", "pixel": "pixel", "pixels": "pixel"}.get(
                said, reader.fwhm_unit
            )
            if unit is None:
                raise LenspipeError(
                    f"{self.path}: the column {name} has no unit, so fwhm_unit must be stated: pixel or arcsec."
                )
            if not said:
                self.notes.append(f"{name} has no unit, taken as {unit} as stated")
            good = np.isfinite(column) & (column > 0)
            values[good, b] = column[good] * (scale if unit == "pixel" else 1.0)
        return values


def safe_key(text: str) -> str:
    """`text` made safe as a file name."""
    return re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9_+-]+", "_", text))[:48] or "unnamed"


def _failed(name: str, file: str, row: int, error: Exception) -> Entry:
    """The entry of what failed; a user's mistake goes on, an error of ours is logged with its traceback."""
    if isinstance(error, LenspipeError):
        raise error
    if not isinstance(error, CandidateError):
        log.exception("%s, row %d", file, row)
        error = CandidateError(Reason.INTERNAL_ERROR, f"{file}, row {row}: {type(error).__name__}: {error}")
    return Entry(safe_key(name), file, row, reason=str(error.reason), detail=error.detail)


def files(source: Source, layout: Layout, pairs: Pairs) -> Iterator[Path]:
    """Every file that a `Reader` with such a layout would open, and those named that are not there."""
    if isinstance(source, Mapping):
        yield from (Path(_expand(text)) for text in source.values())
        return
    for path in _places(source, layout):
        yield from _parts(path).values() if path.is_dir() else [path]
        if is_picture(path) and pairs.mask is not None:
            yield pairs.of(path)


def _places(source: str | list[str], layout: Layout) -> Iterator[Path]:
    """Files to read, and folders that hold one candidate each."""
    for text in [source] if isinstance(source, str) else source:
        expanded = _expand(text)
        for path in map(Path, sorted(glob.glob(expanded)) or [expanded]):
            if not path.is_dir() or (layout in ("auto", "folders") and "image" in _parts(path)):
                yield path
                continue
            for item in sorted(path.iterdir()):
                if item.is_dir():
                    wanted = layout in ("auto", "folders") and not item.name.startswith(".")
                else:  # pictures and arrays beside FITS files only go with them
                    wanted = {"pictures": is_picture, "arrays": is_array}.get(layout, fits.is_fits)(item)
                if wanted:
                    yield item


def _stem(path: Path) -> str:
    return path.stem if is_picture(path) or is_array(path) else fits.stem(path)


def _expand(text: str) -> str:
    return os.path.expandvars(os.path.expanduser(text))


def _parts(folder: Path) -> dict[str, Path]:
    """``image.fits`` and what belongs to it in `folder`, by their names, gzipped or not."""
    found = {fits.stem(path): path for path in sorted(folder.iterdir(), reverse=True) if fits.is_fits(path)}
    return {name: found[name] for name in _PARTS if name in found}


def _native(column: Any) -> NDArray[Any]:
    values = np.asarray(column)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
