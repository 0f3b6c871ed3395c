"""Weights of a network: ``model.safetensors``, which cannot run code, and ``card.json``, which says what they fit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenspipe.errors import LenspipeError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
_TENSORS, _CARD = "model.safetensors", "card.json"
_SCALE_TOLERANCE = 0.05
"""Relative difference in pixel scale that a network does not notice."""


@dataclass(frozen=True)
class Card:
    """What weights are for and where they come from.

    Attributes
    ----------
    name : stands as `origin` with all that these weights make.
    architecture : of the network's class.
    options : of the architecture.
    survey, bands : the data they were trained on.
    pixel_scale : arcsec per pixel.
    classes : order of the outputs.
    normalisation : what the network does to physical units, in words.
    training, metrics, versions : data, seed, length; on the test set; of the software.
    calibration : what makes the outputs honest, fitted on validation objects; empty where nothing was.
    """

    name: str
    architecture: str
    options: dict[str, Any]
    survey: str
    bands: tuple[str, ...]
    pixel_scale: float
    classes: tuple[str, ...]
    normalisation: str
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA


def save(folder: Path, tensors: dict[str, Tensor], card: Card) -> None:
    """Write both files into `folder`, which is there."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / _TENSORS)
    (folder / _CARD).write_text(json.dumps(asdict(card), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_card(folder: Path) -> Card:
    """The card of the weights in `folder`."""
    path = folder / _CARD
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = data["schema"]
    except OSError as error:
        raise LenspipeError(f"{path}: cannot be read ({error.strerror}); weights need a card.") from None
    except (ValueError, KeyError, TypeError):
        raise LenspipeError(f"{path}: not a card of weights.") from None
    if schema != SCHEMA:
        raise LenspipeError(f"{path}: schema {schema!r}, this version reads {SCHEMA}.")
    try:
        return Card(**{**data, "bands": tuple(data["bands"]), "classes": tuple(data["classes"])})
    except (KeyError, TypeError) as error:
        raise LenspipeError(f"{path}: not a card of weights ({error}).") from None


def load(
    folder: Path,
    architecture: str,
    bands: Sequence[str],
    pixel_scale: float,
    classes: Sequence[str],
    survey: str | None = None,
) -> tuple[dict[str, Tensor], Card]:
    """Tensors and card, if the weights are made for such data; `LenspipeError` says what does not fit.

    Parameters
    ----------
    survey : None where the data's survey is not known.
    """
    card = read_card(folder)
    wrong = [
        f"{what} {theirs!r}, not {ours!r}"
        for what, theirs, ours, fits in (
            ("the architecture", card.architecture, architecture, card.architecture == architecture),
            ("the bands", list(card.bands), list(bands), card.bands == tuple(bands)),
            ("the classes", list(card.classes), list(classes), card.classes == tuple(classes)),
            ("the survey", card.survey, survey, survey is None or card.survey == survey),
            (
                "a pixel scale of",
                card.pixel_scale,
                pixel_scale,
                abs(pixel_scale / card.pixel_scale - 1) <= _SCALE_TOLERANCE,
            ),
        )
        if not fits
    ]
    if wrong:
        raise LenspipeError(f"{folder}: these weights are for {'; for '.join(wrong)}.")
    return _tensors(folder / _TENSORS), card


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a state that torch saved, which is read without running code."""
    if path.suffix == ".safetensors":
        return _tensors(path)
    import torch

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): tensors[name] for name in tensors if torch.is_tensor(tensors[name])}
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, TypeError, KeyError) as error:
        raise LenspipeError(f"{path}: cannot be read as tensors ({error}).") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LenspipeError(f"{path}: cannot be read as safetensors ({error}).") from None
    return tensors
