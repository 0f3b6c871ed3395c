"""``plan``: how many objects are simulated for a learner, cut into parts that are made independently."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lenspipe.config import Config
from lenspipe.products import PARTS
from lenspipe.stage import Inputs, Outputs, Stage


class PlanConfig(Config):
    """Options of ``plan``."""

    n: int = Field(120, ge=1, description="objects; more of them leave those that are done as they are")
    per_part: int = Field(60, ge=1, description="objects in one part: one file, one unit of work")


def run(config: PlanConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.io.catalogue import write_ecsv

    starts = range(0, config.n, config.per_part)
    ends = [min(start + config.per_part, config.n) for start in starts]
    # A part is named after its objects: a longer plan shares its whole parts with a shorter one.
    keys = [f"{start:08d}-{end - 1:08d}" for start, end in zip(starts, ends)]
    write_ecsv(outputs[PARTS.name], {"key": keys, "n": [end - start for start, end in zip(starts, ends)]})
    return {"figures": {"n": config.n, "parts": len(keys)}}


STAGE = Stage(
    name="plan",
    inputs=(),
    outputs=(PARTS,),
    config=PlanConfig,
    run=run,
    summary="Say how many objects to simulate for a learner, and cut them into parts.",
)
