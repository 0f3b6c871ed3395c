"""Small pictures: a few thousand of them must not take long, so no figure is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from lenspipe.view.style import MASKED, Composite


def triptych(
    path: Path,
    *,
    image: NDArray[Any],
    model: NDArray[Any],
    sigma: NDArray[Any],
    valid: NDArray[np.bool_],
    side: int = 192,
) -> None:
    """Observed, model, (data - model) / sigma of (B, H, W) arrays, each `side` pixels, side by side."""
    composite = Composite.of(image, sigma, valid)
    scaled = np.where(valid, (image - model) / sigma, 0).sum(0) / np.sqrt(np.maximum(valid.sum(0), 1))
    residual = colormaps["RdBu_r"]((np.clip(scaled, -5, 5) + 5) / 10)[..., :3]
    residual[~valid.any(0)] = [int(MASKED[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    strip = Image.new("RGB", (3 * side, side))
    for place, panel in enumerate((composite(image), composite(model), residual)):
        small = Image.fromarray(np.uint8(255 * panel[::-1] + 0.5))
        method = Image.Resampling.NEAREST if max(panel.shape) <= side else Image.Resampling.BOX
        strip.paste(small.resize((side, side), method), (place * side, 0))
    strip.save(path, format="PNG", optimize=True)
