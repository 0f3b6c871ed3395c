"""What a fit that is cut short goes on from: its search's result and its chains, as plain arrays.

Science writes no files: whoever calls `lenspipe.infer.fit.fit` passes a `Checkpoint` that does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lenspipe.infer.light import HeldLight
from lenspipe.infer.likelihood import Imaging, Likelihood
from lenspipe.infer.objective import Objective
from lenspipe.infer.optimise import Optima
from lenspipe.infer.prepare import Prepared
from lenspipe.infer.priors import Prior, Priors
from lenspipe.infer.search import Found
from lenspipe.lensing.scene import Component, Scene
from lenspipe.types import Estimate

Arrays = Mapping[str, NDArray[Any]]


class Checkpoint(Protocol):
    """Where a fit keeps how far it has come.

    Attributes
    ----------
    spent : seconds that processes before this one gave to the same fit.
    """

    spent: float

    def load(self, part: str) -> Arrays | None:
        """What an earlier process saved as `part` of the same fit; None if nothing."""

    def save(self, part: str, arrays: Arrays) -> None:
        """Keep `arrays` (no objects among them) in place of what `part` held."""

    def due(self) -> bool:
        """Whether enough time has passed since the last `save` to be worth another."""


class Nowhere:
    """A `Checkpoint` that keeps nothing."""

    spent = 0.0

    def load(self, part: str) -> None:
        return None

    def save(self, part: str, arrays: Arrays) -> None:
        return

    def due(self) -> bool:
        return False


NOWHERE = Nowhere()


def kept(checkpoint: Checkpoint, search: Callable[[], Found]) -> Found:
    """What an earlier process found, else what `search` finds now."""
    earlier = checkpoint.load("search")
    if earlier is not None:
        found: Found = thaw(earlier)
        return found
    found = search()
    checkpoint.save("search", freeze(found))
    return found


_CLASSES: dict[str, Any] = {
    c.__name__: c
    for c in (Found, HeldLight, Prepared, Estimate, Imaging, Optima, Objective, Priors, Prior, Scene, Component)
}
"""Classes that hold nothing but data: they are kept attribute by attribute, and no others are ever made."""


def freeze(value: Any) -> dict[str, NDArray[Any]]:
    """`value`, made of `_CLASSES`, likelihoods in float64, arrays and plain values, as arrays; `thaw` brings it back.

    Raises
    ------
    TypeError : for anything else.
    """
    arrays: list[NDArray[Any]] = []
    tree = _freeze(value, arrays)
    return {"tree": np.array(json.dumps(tree)), **{str(i): a for i, a in enumerate(arrays)}}


def thaw(arrays: Arrays) -> Any:
    """What `freeze` was given."""
    return _thaw(json.loads(str(arrays["tree"])), arrays)


def _freeze(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.ndarray | np.generic):
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_freeze(item, arrays) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_freeze(k, arrays), _freeze(v, arrays)] for k, v in value.items()]}
    if isinstance(value, Likelihood):
        if value.dtype != torch.float64:
            raise TypeError("a likelihood that is kept is in float64")
        names = ("data", "scene", "supersampling", "marginalise", "chunk", "subpixels")
        return {"Likelihood": {name: _freeze(getattr(value, name), arrays) for name in names}}
    if type(value).__name__ not in _CLASSES:
        raise TypeError(f"a checkpoint does not keep a {type(value).__name__}")
    return {type(value).__name__: {name: _freeze(item, arrays) for name, item in vars(value).items()}}


def _thaw(tree: Any, arrays: Arrays) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "array":
        return arrays[str(content)]
    if kind in ("list", "tuple"):
        items = [_thaw(item, arrays) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {_thaw(k, arrays): _thaw(v, arrays) for k, v in content}
    state = {name: _thaw(item, arrays) for name, item in content.items()}
    if kind == "Likelihood":
        return Likelihood(state.pop("data"), state.pop("scene"), **state)
    if kind == "Prior":
        return Prior(**state)
    result = object.__new__(_CLASSES[kind])
    for name, item in state.items():
        object.__setattr__(result, name, item)
    return result
