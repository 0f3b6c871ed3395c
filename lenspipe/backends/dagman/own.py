"""What options say of single keys, cut down to those of one parcel so that it travels with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lenspipe.errors import LenspipeError
from lenspipe.io.atomic import write_json
from lenspipe.stage import Stage, Task


@dataclass(frozen=True)
class Sayings:
    """Of one parcel.

    Attributes
    ----------
    path : of the file that travels, relative to the run folder.
    said : key -> what is said of it.
    files : path relative to the run folder -> the file there, one that an entry names.
    """

    path: str
    said: dict[str, Any]
    files: Mapping[str, Path]

    def write(self, root: Path) -> None:
        write_json(root / self.path, self.said)  # JSON is YAML
        for path, source in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, root / path)


def cut(task: Task, stage: Stage, place: str) -> tuple[Task, Sayings | None]:
    """`task` with its option leading to what travels in folder `place` of the run, if anything is said of its keys."""
    if stage.own is None or not (where := task.config[stage.own.option]):
        return task, None
    found = stage.own.read(stage.config.model_validate(task.config))
    mine = {key: found[key] for key in task.keys if key in found}
    sayings = Sayings(
        path=f"{place}/own.yaml",
        said={key: said for key, (said, _) in mine.items()},
        files={
            f"{place}/{_below(Path(where).parent, path)}": path for key, (_, paths) in mine.items() for path in paths
        },
    )
    config = {**task.config, stage.own.option: sayings.path if mine else None}
    return replace(task, config=config), sayings if mine else None


def _below(folder: Path, path: Path) -> str:
    """`path` relative to the folder in which what names it lies."""
    try:
        inside = path.relative_to(folder)
    except ValueError:
        inside = Path("..")
    if ".." in inside.parts or any(character in str(inside) for character in ',"\n'):
        raise LenspipeError(f"{path}: what travels must lie below {folder}, and without commas in its name.")
    return inside.as_posix()
