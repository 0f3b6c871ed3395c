"""YAML to frozen pydantic models. An unknown key is an error that names the nearest right one."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lenspipe.errors import LenspipeError


class Config(BaseModel):
    """Base of every options model: frozen, no unknown keys, no silent coercion of text to numbers' opposites."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> Any:
    """Parsed YAML of `path`; `LenspipeError` names file and line where it is not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LenspipeError(f"{path}: there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LenspipeError(f"{path}: cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise LenspipeError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}.") from None


def nearest(word: str, right: list[str]) -> str:
    """``; did you mean 'x'?`` or a list of what there is."""
    close = difflib.get_close_matches(word, right, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(right))}."


def parse(model: type[Model], data: Any, where: str) -> Model:
    """`data` as a `model`; `LenspipeError` with one sentence per mistake, each naming `where` and the key."""
    try:
        return model.model_validate(data if data is not None else {})
    except ValidationError as error:
        raise LenspipeError("\n".join(_sentence(model, item, where) for item in error.errors())) from None


def _sentence(model: type[BaseModel], item: Any, where: str) -> str:
    path = [str(part) for part in item["loc"]]
    place = ".".join([where, *path])
    if item["type"] == "extra_forbidden":
        return f"{place}: unknown key{nearest(path[-1], _keys_at(model, path[:-1]))}"
    own = item["type"] == "value_error"  # a validator's own words
    said = str(item["ctx"]["error"]) if own else f"{item['msg'][0].lower()}{item['msg'][1:]}"
    got = "" if isinstance(item["input"], dict) or len(repr(item["input"])) > 80 else f" (got {item['input']!r})"
    return f"{place}: {said.removesuffix('.')}{got}."


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = model
    for part in path:
        current = _submodel(current, part)
        if current is None:
            return []
    return list(current.model_fields)


def _submodel(model: Any, part: str) -> Any:
    """The pydantic model that stands behind key `part` of `model`, looking through unions, lists and mappings."""
    info = getattr(model, "model_fields", {}).get(part)
    pending = [info.annotation if info is not None else model]
    while pending:
        item = pending.pop(0)
        if isinstance(item, type) and issubclass(item, BaseModel) and (info is not None):
            return item
        pending.extend(getattr(item, "__args__", ()))
    return model if info is None else None
