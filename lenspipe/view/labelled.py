"""Many cutouts on one page, each beside its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lenspipe.types import CLASSES
from lenspipe.view.style import CLASS_COLOURS, Composite, coloured

_GAP, _TEXT = 4, 12
"""Pixels between panels, and for a line of text."""


def labelled_sheet(
    path: Path,
    *,
    image: NDArray[np.floating],
    rms: NDArray[np.floating],
    bands: Sequence[str],
    label: NDArray[np.uint8] | None = None,
    names: Sequence[str] = (),
    side: int = 96,
    columns: int = 12,
) -> None:
    """Write a PNG of (N, B, H, W) images with sky `rms` (N, B), each above its (N, H, W) labels and below its name."""
    planes = coloured(bands)
    strips = 1 if label is None else 2
    tall = strips * side + (_TEXT if names else 0) + _GAP
    rows = math.ceil(len(image) / columns)
    sheet = Image.new("RGB", (min(len(image), columns) * (side + _GAP) + _GAP, rows * tall + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, cutout in enumerate(image):
        left, top = _GAP + (i % columns) * (side + _GAP), _GAP + i // columns * tall
        if names:
            draw.text((left, top), names[i], fill="#1b1f24")
            top += _TEXT
        shown, noise = cutout[planes], rms[i][planes]
        # Bands weigh half as their noise says and half alike: neither a deep band nor a red galaxy takes all colour.
        weight = np.sqrt(noise * np.exp(np.log(noise).mean()))
        sigma = np.broadcast_to(weight[:, None, None], shown.shape)
        sheet.paste(_small(Composite.of(shown, sigma, np.isfinite(shown))(shown), side), (left, top))
        if label is not None:
            sheet.paste(_small(_painted(label[i]), side), (left, top + side))
    sheet.save(path, format="PNG", optimize=True)


def _small(panel: NDArray[np.floating], side: int) -> Image.Image:
    """(H, W, 3) of 0..1, row 0 at the bottom, as a square picture."""
    method = Image.Resampling.NEAREST if max(panel.shape) <= side else Image.Resampling.BOX
    return Image.fromarray(np.uint8(255 * np.clip(panel[::-1], 0, 1) + 0.5)).resize((side, side), method)


def _painted(label: NDArray[np.uint8]) -> NDArray[np.floating]:
    colours = [CLASS_COLOURS[name] if name != "background" else "#20252b" for name in CLASSES]
    table = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    return np.asarray(table[label])
