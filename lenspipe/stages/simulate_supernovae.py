"""``simulate_supernovae``: images and light curves of galaxies, lenses, and lenses with a supernova."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field, field_validator, model_validator

from lenspipe.products import PARTS, SAMPLES
from lenspipe.sim.supernovae.config import CLASSES, Monitoring, Systems
from lenspipe.stage import Inputs, Outputs, Resources, Stage
from lenspipe.stages.parts import PartsConfig, check_classes, simulate_parts
from lenspipe.stages.presets import SurveyOption


class SupernovaeConfig(PartsConfig):
    """Options of ``simulate_supernovae``."""

    classes: tuple[str, ...] = Field(
        CLASSES, min_length=1, description="of no_lens, lens, lensed_sn_ia, lensed_sn_cc; they take turns"
    )
    survey: SurveyOption = Field("des_deep", validate_default=True, description="a preset: pixels, seeing, sky")
    monitoring: Monitoring = Field(
        Monitoring(exposures={"g": 3, "r": 3, "i": 5, "z": 11}),
        description="when it looks; the default is DES's deep fields (Kessler et al. 2015, AJ 150, 172)",
    )
    supersampling: int = Field(3, ge=1, description="subpixels on a pixel's side")
    systems: Systems = Field(Systems(), description="what is drawn and what is kept")

    @field_validator("classes")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_classes(value, CLASSES)

    @model_validator(mode="after")
    def _consistent(self) -> SupernovaeConfig:
        strange = sorted(set(self.monitoring.exposures) - set(self.survey.names))
        if strange:
            raise ValueError(f"monitoring.exposures names the band {strange[0]!r}, which the survey has not")
        if not self.systems.lens_light:
            raise ValueError("systems.lens_light must be true: without it a galaxy that lenses nothing is nothing")
        return self


def run(config: SupernovaeConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.sim.supernovae.simulate import simulate

    made = partial(
        simulate,
        classes=config.classes,
        options=config.systems,
        monitoring=config.monitoring,
        survey=config.survey,
        supersampling=config.supersampling,
    )
    return simulate_parts(config, outputs, seed, made)


STAGE = Stage(
    name="simulate_supernovae",
    over=PARTS,
    inputs=(),
    outputs=(SAMPLES,),
    config=SupernovaeConfig,
    run=run,
    resources=Resources(memory_gb=2.0, minutes=60.0),
    summary="Simulate images and light curves of galaxies, lenses, and lenses with a supernova.",
)
