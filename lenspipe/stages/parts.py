"""What the stages that simulate for learners share: a part's objects, their seeds, the file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from lenspipe.config import Config, nearest
from lenspipe.errors import CandidateError, LenspipeError
from lenspipe.products import SAMPLES
from lenspipe.stage import Outputs, seed_for
from lenspipe.types import check_id

if TYPE_CHECKING:
    from lenspipe.types import Samples

log = logging.getLogger(__name__)
Simulate = Callable[[Sequence[str], Sequence[int], Sequence[int]], "Samples"]
"""ids, seeds, numbers in the whole set -> samples."""


class PartsConfig(Config):
    """Options that all of them have."""

    prefix: str = Field("L", description="of the ids: L00000012")
    classes: tuple[str, ...] = Field(
        (), min_length=1, description="which to simulate; they take turns, so are balanced"
    )

    @field_validator("prefix")
    @classmethod
    def _safe(cls, value: str) -> str:
        try:
            return check_id(value, "prefix")
        except CandidateError as error:
            raise ValueError(error.detail) from None


def check_classes(found: tuple[str, ...], known: Sequence[str]) -> tuple[str, ...]:
    """`found` if each is one of `known` and comes once, else ValueError."""
    for name in found:
        if name not in known:
            raise ValueError(f"there is no class {name!r}{nearest(name, list(known))}")
    if len(set(found)) < len(found):
        raise ValueError("a class is named twice")
    return found


def simulate_parts(config: PartsConfig, outputs: Outputs, seed: int, simulate: Simulate) -> dict[str, Any]:
    """Make every part that is asked for and write it."""
    from lenspipe.io.samples import write_samples

    figures = {}
    for key, path in outputs[SAMPLES.name].items():
        numbers = _numbers(key)
        ids = [f"{config.prefix}{number:08d}" for number in numbers]
        samples = simulate(ids, [seed_for(seed, name) for name in ids], numbers)
        write_samples(path, samples, config.model_dump(mode="json"), seed)
        counts = {name: int((samples.label == i).sum()) for i, name in enumerate(samples.classes)}
        figures[key] = {f"n_{name}": count for name, count in counts.items()}
        log.info("%s: %s", key, ", ".join(f"{count} {name}" for name, count in counts.items()))
    return {"figures": figures}


def _numbers(key: str) -> range:
    """``00000000-00000059`` -> the numbers 0 to 59."""
    first, _, last = key.partition("-")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise LenspipeError(f"parts: the key {key!r} is not FIRST-LAST, two object numbers.")
    return range(int(first), int(last) + 1)
