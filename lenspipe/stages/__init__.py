"""The stages: one file each, config + ``run`` + the ``STAGE`` value. Here io and science meet.

A stage's science is imported inside its ``run``: the driver reads only the values and must start in a blink.
"""

from __future__ import annotations

from importlib import import_module

from lenspipe.config import nearest
from lenspipe.errors import LenspipeError
from lenspipe.stage import Stage

NAMES = (
    *("simulate", "label", "convert", "train", "segment", "select", "model", "collect", "report"),
    *("train_estimates", "estimate"),
    *("plan", "simulate_substructure", "simulate_supernovae", "simulate_discs", "contact"),
)


def get(name: str) -> Stage:
    """The stage called `name`."""
    if name not in NAMES:
        raise LenspipeError(f"there is no stage {name!r}{nearest(name, list(NAMES))}")
    stage: Stage = import_module(f"lenspipe.stages.{name}").STAGE
    return stage
