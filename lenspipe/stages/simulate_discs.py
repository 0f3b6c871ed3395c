"""``simulate_discs``: protoplanetary discs with and without a planet."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field, field_validator

from lenspipe.products import PARTS, SAMPLES
from lenspipe.sim.discs.config import CLASSES, Discs, Telescope
from lenspipe.stage import Inputs, Outputs, Resources, Stage
from lenspipe.stages.parts import PartsConfig, check_classes, simulate_parts


class DiscsConfig(PartsConfig):
    """Options of ``simulate_discs``."""

    classes: tuple[str, ...] = Field(CLASSES, min_length=1, description="of no_planet, planet; they take turns")
    discs: Discs = Field(Discs(), description="star, disc, structure, planet")
    telescope: Telescope = Field(Telescope(), description="pixels, beam, noise, channels")

    @field_validator("classes")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_classes(value, CLASSES)


def run(config: DiscsConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.sim.discs.simulate import simulate

    made = partial(simulate, classes=config.classes, options=config.discs, telescope=config.telescope)
    return simulate_parts(config, outputs, seed, made)


STAGE = Stage(
    name="simulate_discs",
    over=PARTS,
    inputs=(),
    outputs=(SAMPLES,),
    config=DiscsConfig,
    run=run,
    resources=Resources(memory_gb=2.0, minutes=60.0),
    summary="Simulate protoplanetary discs with and without a planet.",
)
