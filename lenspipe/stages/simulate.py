"""``simulate``: cutouts of lenses and non-lenses in the reference FITS layout, with noiseless layers and the truth."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from lenspipe import __version__
from lenspipe.config import Config
from lenspipe.errors import CandidateError
from lenspipe.products import LAYERS, SIMULATIONS
from lenspipe.sim.population import LAYERS as LAYER_NAMES
from lenspipe.sim.population import Population
from lenspipe.sim.survey import Survey
from lenspipe.stage import Inputs, Outputs, Resources, Stage, seed_for
from lenspipe.stages.presets import SurveyOption
from lenspipe.types import check_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lenspipe.sim.observe import Observed

log = logging.getLogger(__name__)
_CHUNK = 128
"""Objects simulated at once; no object depends on it."""


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

    from lenspipe.sim.observe import observe

    n = config.n_lenses + config.n_nonlenses
    ids = [f"{config.prefix}{i:07d}" for i in range(n)]
    is_lens = np.arange(n) < config.n_lenses
    np.random.default_rng(seed).shuffle(is_lens)
    parts = []
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        seeds = [seed_for(seed, i) for i in ids[rows]]
        parts.append(observe(seeds, is_lens[rows].tolist(), config.population, config.survey, config.supersampling))
        log.info("simulated %d of %d", rows.stop, n)
    truth = _truth(parts)
    _write_fits(outputs[SIMULATIONS.name], ids, parts, truth, config, seed)
    _write_layers(outputs[LAYERS.name], ids, parts, truth, config, seed)
    magnification = truth["magnification"][is_lens]
    figures: dict[str, Any] = {"n_lenses": config.n_lenses, "n_nonlenses": config.n_nonlenses}
    if config.n_lenses:
        figures["magnification_median"] = round(float(np.median(magnification)), 2)
    return {"figures": figures}


def _truth_units() -> dict[str, str]:
    """Name -> unit of the true parameters, those of the model that such lenses are fitted with."""
    from lenspipe.lensing.scene import build

    scene = build(["SIE", "SHEAR"], ["SERSIC_ELLIPSE"], ["SERSIC_ELLIPSE"])
    return {**dict(zip(scene.names, scene.units)), "magnification": ""}


def _truth(parts: list[Observed]) -> dict[str, NDArray[np.float64]]:
    """True parameters by name, (N,) each, NaN for non-lenses."""
    import numpy as np

    rows = [scene.truth() for part in parts for scene in part.scenes]
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in _truth_units()}
    return {**columns, "magnification": np.concatenate([part.magnification for part in parts])}


def _write_fits(
    path: Path,
    ids: list[str],
    parts: list[Observed],
    truth: dict[str, NDArray[np.float64]],
    config: SimulateConfig,
    seed: int,
) -> None:
    """HDU1 IMAGE, HDU2 SOURCE and HDU3 LENS (noiseless), each (N, B, H, W) f4; HDU4 the catalogue.

    The noise is not told: it has to be measured, as on real data. ``EXPOSURE_TIME`` is the effective gain.
    """
    import numpy as np
    from astropy import units
    from astropy.io import fits
    from astropy.table import Table

    survey = config.survey
    table = Table({"COADD_OBJECT_ID": ids})
    # Places on the sky are made up: a grid in the middle of the survey's footprint.
    rows = np.arange(len(ids))
    table["RA"] = (30.0 + 0.01 * (rows % 1000)) * units.deg
    table["DEC"] = (-40.0 + 0.01 * (rows // 1000)) * units.deg
    fwhm = np.concatenate([part.fwhm for part in parts])
    for b, band in enumerate(survey.bands):
        table[f"FWHM_WMEAN_{band.name.upper()}"] = fwhm[:, b] * units.arcsec
        table[f"EXPOSURE_TIME_{band.name.upper()}"] = np.full(len(ids), survey.effective_gain()[b])
    scenes = [scene for part in parts for scene in part.scenes]
    table["is_lens"] = [scene.is_lens for scene in scenes]
    table["kind"] = [scene.kind for scene in scenes]
    for name, unit in _truth_units().items():
        table[f"true_{name}"] = truth[name] * units.Unit(unit)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.concatenate([p.image for p in parts]), name="IMAGE")]
    for name in ("source", "lens"):
        layer = np.concatenate([p.layers[:, LAYER_NAMES.index(name)] for p in parts])
        hdus.append(fits.ImageHDU(layer, name=name.upper()))
    for hdu in hdus[1:]:
        hdu.header["PIXSCALE"] = (survey.pixel_scale, "arcsec per pixel")
        hdu.header["MAGZERO"] = (survey.zero_point, "AB magnitude of one unit")
        hdu.header["BANDS"] = (",".join(band.name for band in survey.bands), "planes of axis 3")
    hdus[0].header["ORIGIN"] = f"lenspipe {__version__} simulate"
    hdus[0].header["SEED"] = str(seed)
    catalogue = fits.table_to_hdu(table)
    catalogue.name = "CATALOGUE"
    fits.HDUList([*hdus, catalogue]).writeto(path)


def _write_layers(
    path: Path,
    ids: list[str],
    parts: list[Observed],
    truth: dict[str, NDArray[np.float64]],
    config: SimulateConfig,
    seed: int,
) -> None:
    """``source lens others`` (N,B,H,W) f4, ``id``, ``sky_rms exposure_time`` (N,B), ``truth/NAME``; config as JSON."""
    import h5py
    import numpy as np

    survey = config.survey
    with h5py.File(path, "w", libver="v110") as f:
        f.create_dataset("id", data=ids, dtype=h5py.string_dtype())
        for index, name in enumerate(LAYER_NAMES):
            data = np.concatenate([part.layers[:, index] for part in parts])
            f.create_dataset(name, data=data, chunks=(1, *data.shape[1:]))
        f["sky_rms"] = np.concatenate([part.sky_rms for part in parts])
        f["exposure_time"] = np.tile(survey.effective_gain(), (len(ids), 1))
        for name, unit in _truth_units().items():
            f[f"truth/{name}"] = truth[name]
            f[f"truth/{name}"].attrs["unit"] = unit
        f.attrs.update(
            schema=LAYERS.schema,
            bands=[band.name for band in survey.bands],
            pixel_scale=survey.pixel_scale,
            zero_point=survey.zero_point,
            config=json.dumps(config.model_dump(mode="json")),
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
    summary="Simulate cutouts of lenses and non-lenses, with noiseless layers and true parameters.",
)
