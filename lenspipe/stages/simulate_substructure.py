"""``simulate_substructure``: lenses without substructure, with subhaloes of cold dark matter, with an axion vortex."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field, field_validator, model_validator

from lenspipe.products import PARTS, SAMPLES
from lenspipe.sim.substructure.config import CLASSES, Lenses
from lenspipe.stage import Inputs, Outputs, Resources, Stage
from lenspipe.stages.parts import PartsConfig, check_classes, simulate_parts
from lenspipe.stages.presets import SurveyOption


class SubstructureConfig(PartsConfig):
    """Options of ``simulate_substructure``."""

    classes: tuple[str, ...] = Field(CLASSES, min_length=1, description="of no, cdm, vortex; they take turns")
    survey: SurveyOption = Field(
        {"preset": "hst_acs", "n_pixels": 150}, validate_default=True, description="a preset of one band, or one named"
    )
    supersampling: int = Field(2, ge=1, description="subpixels on a pixel's side")
    lenses: Lenses = Field(Lenses(), description="what is drawn and what is kept")

    @field_validator("classes")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_classes(value, CLASSES)

    @model_validator(mode="after")
    def _one_band(self) -> SubstructureConfig:
        if len(self.survey.bands) != 1:
            raise ValueError(
                f"survey has the bands {', '.join(self.survey.names)}: name one, bands: [{self.survey.names[0]}]"
            )
        return self


def run(config: SubstructureConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.sim.substructure.simulate import simulate

    made = partial(
        simulate,
        classes=config.classes,
        options=config.lenses,
        survey=config.survey,
        supersampling=config.supersampling,
    )
    return simulate_parts(config, outputs, seed, made)


STAGE = Stage(
    name="simulate_substructure",
    over=PARTS,
    inputs=(),
    outputs=(SAMPLES,),
    config=SubstructureConfig,
    run=run,
    resources=Resources(memory_gb=2.0, minutes=60.0),
    summary="Simulate lenses without substructure, with CDM subhaloes, with an axion vortex.",
)
