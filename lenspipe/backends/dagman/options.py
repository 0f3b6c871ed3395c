"""What a site file says of a DAGMan workflow: its section ``dagman``."""

from __future__ import annotations

import os
import re
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from lenspipe import __version__
from lenspipe.config import Config
from lenspipe.errors import LenspipeError

_VARIABLE = re.compile(r"\$(\w+)")


class Dagman(Config):
    """The jobs that `lenspipe submit` hands to HTCondor."""

    stages: tuple[str, ...] = Field(("model",), min_length=1, description="their units travel; the rest stays here")
    executable: str = Field(pattern=r"/[^\s]+", description="lenspipe's command on a worker or in the image")
    image: str | None = Field(
        None, description="container_image; {version} stands for lenspipe's, $NAME for a variable; null: none"
    )
    duration: Literal["Medium", "Long"] | None = Field(None, description="+JobDurationCategory")
    requirements: str | None = Field(None, description="of a worker, in HTCondor's words")
    minutes_per_job: float = Field(60, ge=20, le=240, description="work of one job; 20 min to 4 h")
    checkpoint_minutes: PositiveFloat = Field(60, description="work that an eviction may cost")
    memory_gb: PositiveFloat | None = Field(None, description="of a job at first; null: what its stage asks for")
    memory_gb_max: PositiveFloat = Field(8, description="after it was too little")
    disk_gb: PositiveFloat = Field(4, description="of a job at first")
    disk_gb_max: PositiveFloat = Field(16, description="after it was too little")
    retries: NonNegativeInt = Field(2, description="further starts of a job that ended badly")
    max_holds: PositiveInt = Field(5, description="holds of one job; after the last it is not released any more")
    release_minutes: PositiveFloat = Field(5, description="before a job that may be is released from its hold")
    held_hours: PositiveFloat = Field(72, description="then a job still held is removed, its candidates tried singly")
    max_idle: PositiveInt = Field(1000, description="jobs that wait in the queue at a time; the DAG keeps the others")
    options: tuple[str, ...] = Field((), description="more lines of the submit file, as they are")

    @field_validator("image", "requirements", "options")
    @classmethod
    def _one_line(cls, value: object) -> object:
        if any("\n" in text for text in ([value] if isinstance(value, str) else value or [])):  # type: ignore[attr-defined]
            raise ValueError("one line only")
        return value

    @field_validator("image")
    @classmethod
    def _versioned(cls, value: str | None) -> str | None:
        if value and "://" in value and not re.search(r"\d|\{version\}|@sha256:", value.rsplit("/", 1)[-1]):
            raise ValueError("caches keep an image by its name: put {version} into it")
        return value


def fill(text: str | None, what: str) -> str | None:
    """`text` with lenspipe's version and the environment's variables put in."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], "")
        if not re.fullmatch(r"[\w./:@-]+", found):
            raise LenspipeError(
                f"{what}: {text}: set the variable {match[1]} (export {match[1]}=...), or edit the site."
            )
        return found

    return text and _VARIABLE.sub(value, text.replace("{version}", __version__))
