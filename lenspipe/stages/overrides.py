"""What a user says of single candidates: a YAML file, id -> options of the fit, redshifts, masks drawn by hand."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator

from lenspipe.config import Config, parse, read_yaml
from lenspipe.errors import CandidateError, LenspipeError, Reason
from lenspipe.infer.config import FitConfig
from lenspipe.types import CLASSES, Cutout, Masks

Options = TypeVar("Options", bound=FitConfig)


class Drawn(Config):
    """Pixels by hand: regions as text, arcsec from the cutout's centre, DS9 files (.reg), FITS images."""

    ignore: tuple[str, ...] = Field((), description="left out of the fit")
    arc: tuple[str, ...] = Field((), description="the lensed source, in place of what was segmented")
    lens: tuple[str, ...] = Field((), description="the lens galaxy, in place of what was segmented")

    @field_validator("ignore", "arc", "lens", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Entry(FitConfig):
    """What may be said of one candidate: every option of the fit, and more."""

    mask: Drawn = Drawn()
    redshifts: tuple[float, float] | None = Field(None, description="of lens and source")

    @field_validator("redshifts")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] < value[1]:
            raise ValueError("expected 0 < lens < source")
        return value


@dataclass(frozen=True)
class Override:
    """One checked entry.

    Attributes
    ----------
    said : as it stands in the file.
    entry : the stage's options with those of the entry over them.
    folder : that files are looked for in.
    """

    said: Any
    entry: Entry
    folder: Path

    @property
    def files(self) -> tuple[Path, ...]:
        mask = self.entry.mask
        return self._files((*mask.ignore, *mask.arc, *mask.lens))

    def over(self, config: Options) -> Options:
        """`config` with the entry's options in place of its own."""
        return config.model_copy(update={name: getattr(self.entry, name) for name in FitConfig.model_fields})

    def drawn_on(self, cutout: Cutout, masks: Masks | None) -> tuple[Cutout, Masks | None]:
        """`cutout` and `masks` with what was drawn by hand.

        Raises
        ------
        CandidateError : where a file that is named cannot be used for this cutout.
        """
        import numpy as np

        mask = self.entry.mask
        notes = [*cutout.notes, f"options of its own: {', '.join(self.said)}"]
        if mask.ignore:
            pixels = self._pixels(mask.ignore, cutout)
            notes.append(f"{int(pixels.sum())} pixels are left out by hand")
            cutout = replace(cutout, valid=cutout.valid & ~pixels)
        cutout = replace(cutout, notes=tuple(notes))
        if not (mask.arc or mask.lens):
            return cutout, masks
        if masks is None:
            probability = np.zeros((len(CLASSES), *cutout.shape), np.float32)
            height, width = cutout.shape
            rows, columns = np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2
            # Where no lens is drawn, it is at the centre, as it is for a fit without masks.
            probability[CLASSES.index("lens")] = np.hypot(rows, columns) < 3
        else:
            probability = masks.probability.copy()
        for name, texts in (("lens", mask.lens), ("source", mask.arc)):
            if texts:
                pixels = self._pixels(texts, cutout)
                probability[CLASSES.index(name)] = 0
                probability[:, pixels] = 0
                probability[CLASSES.index(name), pixels] = 1
        probability[CLASSES.index("background")] += np.clip(1 - probability.sum(0), 0, 1)
        return cutout, Masks(probability, "hand" if masks is None else f"{masks.origin}, hand")

    def _pixels(self, texts: tuple[str, ...], cutout: Cutout) -> Any:
        """(H,W) bool."""
        import numpy as np

        from lenspipe.io.regions import parse_region, rasterise, read_regions

        height, width = cutout.shape
        rows, columns = np.arange(height)[:, None], np.arange(width)
        x, y = ((axis - (n - 1) / 2) * cutout.pixel_scale for axis, n in ((columns, width), (rows, height)))
        drawn = [parse_region(text, cutout.id) for text in texts if "(" in text]
        found = rasterise(drawn, x, y) if drawn else np.zeros((height, width), bool)
        for path in self._files(texts):
            if path.suffix.lower() == ".reg":
                try:
                    found |= rasterise(read_regions(path), columns + 1, rows + 1)
                except LenspipeError as error:
                    raise CandidateError(Reason.FILE_UNREADABLE, str(error)) from None
            else:
                found |= _fits_mask(path, cutout.shape)
        return found

    def _files(self, texts: tuple[str, ...]) -> tuple[Path, ...]:
        return tuple(self.folder / text for text in texts if "(" not in text)


def read(path: Path, config: FitConfig) -> Mapping[str, Override]:
    """Id -> what file `path` says of it, over `config`.

    Raises
    ------
    LenspipeError : where the file is not a mapping of ids, or an entry holds an unknown key, a wrong value, something
        that is no region, or names a file that is not there.
    """
    options = {name: getattr(config, name) for name in FitConfig.model_fields}
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _read(path, changed, FitConfig.model_construct(**options).model_dump_json())


def of(path: Path | None, config: FitConfig, name: str, warn: Callable[[str], None]) -> Override | None:
    """What `path` says of `name`; where it says nothing of it but of an id much like it, `warn` gets a sentence."""
    if path is None:
        return None
    found = read(path, config)
    if name not in found:
        close = difflib.get_close_matches(name, found, n=1, cutoff=0.5)
        warn(f"{path} says nothing of {name!r}{f', but of {close[0]!r}' if close else ''}")
    return found.get(name)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, options: str) -> Mapping[str, Override]:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise LenspipeError(f"{path}: expected options by candidate's id.")
    shared = json.loads(options)
    found = {}
    for key, said in data.items():
        name = str(key)
        where = f"{path}: {name}"
        if name in found:
            raise LenspipeError(f"{where}: stands there twice.")
        if not isinstance(said, dict):
            raise LenspipeError(f"{where}: expected options by name.")
        merged = dict(shared)
        for option, value in said.items():
            below = merged.get(option)
            # A mapping over a mapping: a prior over the priors, an option over those of its group.
            merged[option] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
        override = Override(json.loads(json.dumps(said, default=str)), parse(Entry, merged, where), path.parent)
        _check(override, where)
        found[name] = override
    return found


def _check(override: Override, where: str) -> None:
    from lenspipe.io.regions import parse_region

    for what, texts in override.entry.mask:
        for text in texts:
            if "(" in text:
                parse_region(text, f"{where}.mask.{what}")
    for file in override.files:
        if not file.exists():
            raise LenspipeError(f"{where}.mask: {file} is not there.")


def _fits_mask(path: Path, shape: tuple[int, int]) -> Any:
    """(H,W) True where the file's first image is neither zero nor undefined."""
    import numpy as np

    from lenspipe.io import fits

    with fits.opened(path) as (hdus, _):
        hdu = next((hdu for hdu in hdus if fits.is_image(hdu)), None)
        if hdu is None:
            raise CandidateError(Reason.LAYOUT_UNKNOWN, f"{path}: the file holds no image.")
        data = np.squeeze(np.array(fits.image_data(hdu, str(path)), dtype=float))
    if data.shape != shape:
        raise CandidateError(Reason.SHAPE_MISMATCH, f"{path}: a mask of shape {data.shape} for a cutout of {shape}.")
    return np.isfinite(data) & (data != 0)
