"""The option ``survey`` of the stages that simulate: a preset, a file like one, or the numbers themselves."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from lenspipe.config import nearest, parse, read_yaml
from lenspipe.errors import LenspipeError
from lenspipe.sim.survey import Preset, Survey

_FOLDER = resources.files("lenspipe") / "sim" / "surveys"


def names() -> list[str]:
    """The presets that come with lenspipe."""
    return sorted(Path(item.name).stem for item in _FOLDER.iterdir() if item.name.endswith(".yaml"))


def preset(name: str) -> Preset:
    """The preset of that name, or the one in the YAML file at that path (``~`` and $VARIABLES are expanded)."""
    if name in names():
        path = Path(str(_FOLDER / f"{name}.yaml"))
    else:
        path = Path(os.path.expandvars(os.path.expanduser(name)))
        if path.suffix not in (".yaml", ".yml"):
            raise LenspipeError(f"there is no survey {name!r}{nearest(name, names())}")
    return parse(Preset, read_yaml(path), str(path))


def _survey(value: Any) -> Any:
    """The fields of a `Survey` out of what a workflow may say: a name, a path, or fields over those of a preset."""
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict) or "preset" not in value:
        return value
    over = {key: item for key, item in value.items() if key != "preset"}
    bands = over.get("bands", [])
    if all(isinstance(band, str) for band in bands):
        over.pop("bands", None)
    else:
        bands = []
    try:
        return {**preset(str(value["preset"])).survey(tuple(bands)).model_dump(), **over}
    except LenspipeError as error:
        raise ValueError(str(error)) from None


SurveyOption = Annotated[Survey, BeforeValidator(_survey)]
"""``des_wide``; ``my_survey.yaml``; ``{preset: des_wide, bands: [g, r, i], n_pixels: 64}``; or a whole `Survey`."""
