"""The workflow file: corridors of stages with their options, checked to the last key before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from lenspipe.config import Config, nearest, parse, read_yaml
from lenspipe.errors import LenspipeError
from lenspipe.stage import Stage, seed_for

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
GetStage = Callable[[str], Stage]


class WorkflowFile(Config):
    """What a workflow file may hold."""

    name: str = Field(description="for logs and the report")
    seed: int = Field(0, description="every stage's and object's seed derives from it")
    corridors: dict[str, dict[str, Any]] = Field(description="corridor -> stage -> its options")


@dataclass(frozen=True)
class Instance:
    """A stage in a corridor, with its effective options as plain JSON."""

    corridor: str
    stage: Stage
    config: dict[str, Any]
    seed: int

    @property
    def name(self) -> str:
        return f"{self.corridor}.{self.stage.name}"


@dataclass(frozen=True)
class Workflow:
    name: str
    instances: tuple[Instance, ...]


def load(path: Path, sets: Sequence[str], get: GetStage) -> Workflow:
    """Read and check a workflow file.

    Parameters
    ----------
    sets : overrides, ``corridor.stage.key=VALUE`` (or ``stage.key=VALUE`` where one corridor alone has that stage;
        ``seed=VALUE``), each VALUE read as YAML.
    get : stage by name; raises `LenspipeError` for an unknown one.
    """
    data = read_yaml(path)
    parse(WorkflowFile, data, str(path))
    for text in sets:
        apply_set(data, text)
    file = parse(WorkflowFile, data, str(path))
    instances, wrong = [], []
    for corridor, stages in file.corridors.items():
        if not _NAME.fullmatch(corridor):
            wrong.append(f"{path}: corridor {corridor!r}: a name is letters, digits, - and _.")
        for name, options in stages.items():
            where = f"{path}: {corridor}.{name}"
            try:
                stage = get(name)
                config = parse(stage.config, options, where)
            except LenspipeError as error:
                message = str(error)
                wrong.append(message if message.startswith(where) else f"{where}: {message}")
                continue
            seed = seed_for(file.seed, corridor, name)
            instances.append(Instance(corridor, stage, config.model_dump(mode="json"), seed))
    if wrong:
        raise LenspipeError("\n".join(wrong))
    return Workflow(file.name, tuple(instances))


def split_set(text: str) -> tuple[list[str], Any]:
    """``a.b=VALUE`` as (["a", "b"], value)."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise LenspipeError(f"--set {text}: write KEY=VALUE.")
    try:
        return path.split("."), yaml.safe_load(value)
    except yaml.YAMLError:
        raise LenspipeError(f"--set {text}: the value is not YAML.") from None


def put(options: dict[str, Any], path: Sequence[str], value: Any, text: str) -> None:
    """Set the nested key `path` of `options`; an unknown key is left to the options' own check.

    Mappings on the way are copied: in YAML one may stand in several places.
    """
    for part in path[:-1]:
        below = {} if options.get(part) is None else options[part]
        if not isinstance(below, dict):
            raise LenspipeError(f"--set {text}: {part} is not a mapping.")
        options[part] = dict(below)
        options = options[part]
    options[path[-1]] = value


def apply_set(data: dict[str, Any], text: str) -> None:
    """Put one override into a workflow file's data."""
    path, value = split_set(text)
    corridors: dict[str, Any] = data["corridors"]
    if path == ["seed"]:
        data["seed"] = value
        return
    if path[0] not in corridors:
        path = [_corridor_of(path[0], corridors, text), *path]
    corridor, *rest = path
    stages = corridors[corridor]
    if not rest or rest[0] not in stages:
        wrong = rest[0] if rest else ""
        raise LenspipeError(f"--set {text}: corridor {corridor} has no stage {wrong!r}{nearest(wrong, list(stages))}")
    if len(rest) == 1:
        raise LenspipeError(f"--set {text}: name a key of {corridor}.{rest[0]} too.")
    corridors[corridor] = dict(stages)
    put(corridors[corridor], rest, value, text)


def _corridor_of(stage: str, corridors: dict[str, Any], text: str) -> str:
    having = [name for name, stages in corridors.items() if stage in stages]
    if len(having) > 1:
        choices = " or ".join(f"{name}.{stage}" for name in having)
        raise LenspipeError(f"--set {text}: more than one corridor has {stage}; write {choices}.")
    if not having:
        right = [*corridors, *(name for stages in corridors.values() for name in stages), "seed"]
        raise LenspipeError(f"--set {text}: there is no {stage!r} in the workflow{nearest(stage, right)}")
    return having[0]
