"""Facts about a machine, apart from the workflow: a small YAML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

import lenspipe
from lenspipe.config import Config, nearest, parse, read_yaml
from lenspipe.errors import LenspipeError
from lenspipe.run.driver import Capacity

WORKFLOWS = Path(lenspipe.__file__).parent / "workflows"
"""The workflow files that come with the package, and in ``sites/`` the sites."""


class Site(Config):
    """What a site file may hold."""

    name: str
    backend: Literal["parsl", "inline"] = Field("parsl", description="what runs the tasks")
    cores: Literal["auto"] | PositiveInt = Field(
        "auto", description="cores of all tasks at a time; auto: all there are"
    )
    memory_gb: PositiveFloat | None = Field(None, description="memory of all tasks at a time (GB); null: not watched")
    per_task: dict[str, PositiveInt] = Field({}, description="stage -> keys of one task")
    minutes_factor: PositiveFloat = Field(1.0, description="multiplies every stage's time limit")

    def capacity(self) -> Capacity:
        cores = len(os.sched_getaffinity(0)) if self.cores == "auto" else self.cores
        return Capacity(cores, self.memory_gb, self.per_task, self.minutes_factor)


def load_site(text: str, stages: Sequence[str]) -> Site:
    """The site in file `text`, or of that name among those that come with lenspipe.

    Parameters
    ----------
    stages : names that ``per_task`` may hold.
    """
    path = find(text, WORKFLOWS / "sites", "site")
    site = parse(Site, read_yaml(path), str(path))
    for name in site.per_task:
        if name not in stages:
            raise LenspipeError(f"{path}: per_task: there is no stage {name!r}{nearest(name, list(stages))}")
    return site


def find(text: str, folder: Path, what: str) -> Path:
    """File `text`, or ``folder/text.yaml``."""
    if Path(text).is_file():
        return Path(text)
    path = folder / f"{text}.yaml"
    if Path(text).name == text and path.is_file():
        return path
    names = sorted(item.stem for item in folder.glob("*.yaml"))
    raise LenspipeError(f"{text}: there is no such file, nor a {what} of that name{nearest(text, names)}")
