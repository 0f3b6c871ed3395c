"""``simulate``: cutouts of lenses and non-lenses in the reference FITS layout, with noiseless layers and the truth."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from lenspipe import __version__
from lenspipe.config import Config
from lenspipe.errors import CandidateError, LenspipeError
from lenspipe.products import LAYERS, SIMULATIONS
from lenspipe.sim.population import Population
from lenspipe.sim.scene import FACTS
from lenspipe.sim.scene import LAYERS as LAYER_NAMES
from lenspipe.sim.skies import Noise
from lenspipe.sim.survey import Survey
from lenspipe.stage import Inputs, Outputs, Resources, Stage, seed_for
from lenspipe.stages.presets import SurveyOption
from lenspipe.types import check_id

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

    from lenspipe.sim.skies import Skies
    from lenspipe.types import Cutout

log = logging.getLogger(__name__)
_CHUNK = 128
"""Objects simulated at once; no object depends on it."""
_FACTS = 1024
"""Bytes for what there is of an object beside its images."""
_FITS_IMAGES = ("image", "source", "lens")
_HDF5_IMAGES = ("image", *LAYER_NAMES)


class SimulateConfig(Config):
    """Options of ``simulate``."""

    n_lenses: int = Field(1200, ge=0, description="simulated lenses")
    n_nonlenses: int = Field(1200, ge=0, description="ellipticals, blue companions, spirals, star fields, blank fields")
    prefix: str = Field("SIM", description="of the ids: SIM0000012")
    supersampling: int = Field(3, ge=1, description="subpixels on a pixel's side over which profiles are averaged")
    survey: SurveyOption = Field(
        Survey(),
        description="a preset, a YAML file like one, or {preset: NAME, bands: [...], ...}: pixels, seeing, depth",
    )
    noise: Noise = Field(Noise(), description="correlation of the noise, masked pixels")
    backgrounds: str | list[str] | dict[str, str] | None = Field(
        None,
        description="real cutouts to put the objects on, as convert reads its source, or shards that it wrote, in the "
        "survey's bands, pixels and zero point; PSFs are the survey's where none are known; null: drawn noise",
    )
    fwhm_unit: Literal["pixel", "arcsec"] | None = Field(None, description="of FWHM_WMEAN_* of the backgrounds")
    population: Population = Field(Population(), description="what is on the sky")

    @field_validator("prefix")
    @classmethod
    def _safe(cls, value: str) -> str:
        try:
            return check_id(value, "prefix")
        except CandidateError as error:
            raise ValueError(error.detail) from None

    @model_validator(mode="after")
    def _consistent(self) -> SimulateConfig:
        if self.n_lenses + self.n_nonlenses == 0:
            raise ValueError("n_lenses and n_nonlenses are both 0")
        for name in ("lens_colours", "source_colours", "field_colours"):
            try:
                getattr(self.population, name).at(self.survey.per_band("wavelength"))
            except ValueError as error:
                raise ValueError(f"population.{name} {error}") from None
        return self


def run(config: SimulateConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    import numpy as np

    from lenspipe.io.hdf5 import created
    from lenspipe.io.stacks import FitsStacks
    from lenspipe.sim.by_slsim.galaxies import draw_galaxies
    from lenspipe.sim.observe import observe

    n, survey = config.n_lenses + config.n_nonlenses, config.survey
    ids = [f"{config.prefix}{i:07d}" for i in range(n)]
    is_lens = np.arange(n) < config.n_lenses
    np.random.default_rng(seed).shuffle(is_lens)
    shape = (n, len(survey.bands), survey.n_pixels, survey.n_pixels)
    _enough_room(outputs[LAYERS.name].parent, (len(_HDF5_IMAGES) + len(_FITS_IMAGES)) * 4 * math.prod(shape))
    skies = None if config.backgrounds is None else _skies(config)
    sky_rng, slsim = np.random.default_rng(seed_for(seed, "slsim")), config.population.slsim
    galaxies = None if slsim is None else draw_galaxies(sky_rng, slsim, survey)
    cards = {
        "PIXSCALE": (survey.pixel_scale, "arcsec per pixel"),
        "MAGZERO": (survey.zero_point, "AB magnitude of one unit"),
        "BANDS": (",".join(survey.names), "planes of axis 3"),
    }
    primary = {"ORIGIN": (f"lenspipe {__version__} simulate", ""), "SEED": (str(seed), "")}
    rows: list[dict[str, Any]] = []
    with (
        FitsStacks(outputs[SIMULATIONS.name], [name.upper() for name in _FITS_IMAGES], shape, primary, cards) as stacks,
        created(outputs[LAYERS.name], len(_HDF5_IMAGES) * 4 * math.prod(shape) + _FACTS * n) as layers,
    ):
        for name in _HDF5_IMAGES:
            layers.create_dataset(name, shape, "f4", chunks=(1, *shape[1:]))
        for start in range(0, n, _CHUNK):
            chunk = slice(start, min(start + _CHUNK, n))
            seeds = [seed_for(seed, i) for i in ids[chunk]]
            made = observe(
                seeds,
                is_lens[chunk].tolist(),
                config.population,
                survey,
                config.supersampling,
                config.noise,
                skies,
                galaxies,
            )
            images = {"image": made.image, **{name: made.layers[:, i] for i, name in enumerate(LAYER_NAMES)}}
            for name in _HDF5_IMAGES:
                layers[name][chunk] = images[name]
            for name in _FITS_IMAGES:
                stacks.write(name.upper(), start, images[name])
            rows += made.rows()
            log.info("simulated %d of %d", chunk.stop, n)
        units = _truth_units(config.population)
        columns = _columns(rows, units)
        stacks.finish(_catalogue(ids, columns, units, survey), "CATALOGUE")
        _write_facts(layers, ids, columns, units, config, seed)
    figures: dict[str, Any] = {"n_lenses": config.n_lenses, "n_nonlenses": config.n_nonlenses}
    if config.n_lenses:
        figures["magnification_median"] = round(float(np.nanmedian(columns["magnification"])), 2)
    return {"figures": figures}


def outside(config: SimulateConfig) -> Iterable[Path]:
    from lenspipe.io.layouts import files
    from lenspipe.io.pictures import Pairs

    return [] if config.backgrounds is None else files(config.backgrounds, "auto", Pairs(None, {}))


def _skies(config: SimulateConfig) -> Skies:
    """All usable backgrounds; `LenspipeError` where there is none or they are smaller than the cutouts."""
    import numpy as np

    from lenspipe.sim.skies import Skies

    survey = config.survey
    images: list[NDArray[np.float32]] = []
    rms, fwhm, reasons = [], [], []
    for where, made in _backgrounds(config):
        if isinstance(made, str):
            reasons.append(made)
        elif min(made.shape) < survey.n_pixels:
            reasons.append(f"{where}: {made.shape} pixels, below the {survey.n_pixels} of the survey's cutouts.")
        elif images and made.image.shape != images[0].shape:
            reasons.append(f"{where}: {made.image.shape}, not {images[0].shape} as the first.")
        else:
            images.append(np.where(made.valid, made.image, np.float32(np.nan)))
            noise = [np.median(sigma[valid]) for sigma, valid in zip(made.sigma, made.valid)]
            rms.append(np.where(np.isfinite(made.background_rms), made.background_rms, noise))
            fwhm.append(np.where(np.isfinite(made.psf_fwhm), made.psf_fwhm, survey.per_band("psf_fwhm")))
    if not images:
        raise LenspipeError(f"simulate: not one background can be used. {' '.join(reasons[:3])}")
    if reasons:
        log.warning("%d backgrounds are left out, the first: %s", len(reasons), reasons[0])
    stack = np.stack(images)
    sky = np.nanmedian(stack, axis=(2, 3), keepdims=True)
    return Skies(np.asarray(stack - sky, dtype=np.float32), np.stack(rms), np.stack(fwhm))


def _backgrounds(config: SimulateConfig) -> Iterator[tuple[str, Cutout | str]]:
    """Where each background comes from, and it or why it cannot be used."""
    from lenspipe.infer.noise import sigma_map
    from lenspipe.io.arrays import Pickled
    from lenspipe.io.layouts import Reader
    from lenspipe.io.survey import SurveyFacts

    survey = config.survey
    facts = SurveyFacts(
        bands=survey.names,
        pixel_scale=survey.pixel_scale,
        zero_point=survey.zero_point,
        psf_fwhm={band.name: band.psf_fwhm for band in survey.bands},
    )
    reader = Reader(facts, sigma_map, fwhm_unit=config.fwhm_unit)
    assert config.backgrounds is not None
    for place in reader.places(config.backgrounds):
        if isinstance(place, Path) and place.suffix == ".h5":
            yield from _shard(place, survey)
            continue
        try:
            for entry in reader.entries(place, range(reader.count(place))):
                yield f"{entry.file}, row {entry.row}", entry.cutout or entry.detail
        except Pickled as error:
            said = facts.model_dump(include={"bands", "pixel_scale", "zero_point", "psf_fwhm"}, mode="json")
            raise LenspipeError(
                f"simulate: {error} If you trust it, make it plain with lenspipe convert --trust-pickle --out plain "
                f"--set source={place} --set survey='{json.dumps(said)}' and name plain/shards/*.h5 here."
            ) from None


def _shard(path: Path, survey: Survey) -> Iterator[tuple[str, Cutout | str]]:
    """What ``convert`` wrote to `path`, in the survey's bands."""
    from lenspipe.io.shards import Shard

    with Shard(path) as shard:
        planes = [shard.bands.index(name) for name in survey.names if name in shard.bands]
        same = abs(shard.pixel_scale / survey.pixel_scale - 1) < 0.01
        for row in range(len(shard)):
            where, made = f"{path}, row {row}", shard.cutout(row)
            other = made.zero_point[planes][abs(made.zero_point[planes] - survey.zero_point) > 1e-3]
            if len(planes) < len(survey.bands):
                yield where, f"{where}: bands {', '.join(shard.bands)}; the survey wants {', '.join(survey.names)}."
            elif not same:
                yield (
                    where,
                    f"{where}: pixels of {shard.pixel_scale:g} arcsec; the survey wants {survey.pixel_scale:g}.",
                )
            elif len(other):
                yield where, f"{where}: zero point {other[0]:g}, the survey's is {survey.zero_point:g}."
            else:
                names = ("image", "sigma", "valid", "psf", "psf_fwhm", "background_rms", "exposure_time", "zero_point")
                picked = {name: getattr(made, name)[planes] for name in names}
                yield where, replace(made, bands=survey.names, **picked)


def _enough_room(folder: Path, needed: int) -> None:
    """`LenspipeError` where the disk cannot hold `needed` bytes: better now than after an hour."""
    from lenspipe.io.room import of_arrays

    free = shutil.disk_usage(folder).free
    if free < of_arrays(needed):
        raise LenspipeError(
            f"simulate: {needed / 1e6:,.0f} MB are to be written to {folder}, where {free / 1e6:,.0f} MB are free."
        )


def _truth_units(population: Population) -> dict[str, str]:
    """Name -> unit of the true parameters: those of the model that such lenses are fitted with, and more."""
    from lenspipe.lensing.scene import build

    scene = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
    known = FACTS if population.physical or population.slsim else {}
    return {**dict(zip(scene.names, scene.units)), "magnification": "", "arc_snr": "", **known}


def _columns(rows: list[dict[str, Any]], names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """``kind``, ``fwhm`` and ``sky_rms`` (N, B), and the truth by name, (N,) each, NaN where an object has none."""
    import numpy as np

    columns: dict[str, NDArray[Any]] = {
        name: np.array([row["truth"].get(name, np.nan) for row in rows]) for name in names
    }
    return columns | {name: np.array([row[name] for row in rows]) for name in ("kind", "fwhm", "sky_rms")}


def _catalogue(ids: list[str], columns: dict[str, NDArray[Any]], truth: dict[str, str], survey: Survey) -> Any:
    """The noise is not told: it has to be measured, as on real data. ``EXPOSURE_TIME`` is the effective gain."""
    import numpy as np
    from astropy import units
    from astropy.table import Table

    table = Table({"COADD_OBJECT_ID": ids})
    # Places on the sky are made up: a grid in the middle of the survey's footprint.
    rows = np.arange(len(ids))
    table["RA"] = (30.0 + 0.01 * (rows % 1000)) * units.deg
    table["DEC"] = (-40.0 + 0.01 * (rows // 1000)) * units.deg
    for b, band in enumerate(survey.bands):
        table[f"FWHM_WMEAN_{band.name.upper()}"] = columns["fwhm"][:, b] * units.arcsec
        table[f"EXPOSURE_TIME_{band.name.upper()}"] = np.full(len(ids), survey.effective_gain()[b])
    table["is_lens"] = columns["kind"] == "lens"
    table["kind"] = columns["kind"]
    for name, unit in truth.items():
        table[f"true_{name}"] = columns[name] * units.Unit(unit)
    return table


def _write_facts(
    layers: h5py.File,
    ids: list[str],
    columns: dict[str, NDArray[Any]],
    truth: dict[str, str],
    config: SimulateConfig,
    seed: int,
) -> None:
    """Beside the images: ``id kind`` (N,), ``sky_rms exposure_time fwhm`` (N, B), ``truth/NAME``; config as JSON."""
    import h5py
    import numpy as np

    survey = config.survey
    layers.create_dataset("id", data=ids, dtype=h5py.string_dtype())
    layers.create_dataset("kind", data=columns["kind"].tolist(), dtype=h5py.string_dtype())
    layers["sky_rms"], layers["fwhm"] = columns["sky_rms"], columns["fwhm"]
    layers["fwhm"].attrs["unit"] = "arcsec"
    layers["exposure_time"] = np.tile(survey.effective_gain(), (len(ids), 1))
    for name, unit in truth.items():
        layers[f"truth/{name}"] = columns[name]
        layers[f"truth/{name}"].attrs["unit"] = unit
    layers.attrs.update(
        schema=LAYERS.schema,
        bands=list(survey.names),
        pixel_scale=survey.pixel_scale,
        zero_point=survey.zero_point,
        config=config.model_dump_json(),
        seed=str(seed),
        lenspipe=__version__,
    )


STAGE = Stage(
    name="simulate",
    inputs=(),
    outputs=(SIMULATIONS, LAYERS),
    config=SimulateConfig,
    run=run,
    resources=Resources(memory_gb=3.0, minutes=60.0),
    version=2,
    outside=outside,
    summary="Simulate cutouts of lenses and non-lenses, with noiseless layers and true parameters.",
)
