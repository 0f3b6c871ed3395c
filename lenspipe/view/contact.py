"""Contact sheets: many simulated objects of one class on one page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from numpy.typing import NDArray

from lenspipe.types import Samples
from lenspipe.view import style

_BAND_COLOURS = {"u": "#7a5195", "g": "#009e73", "r": "#d55e00", "i": "#a3201c", "z": "#3a3a3a", "y": "#e69f00"}
_MAP = "inferno"


def contact_sheet(path: Path, samples: Samples, columns: int, panel: float = 1.25, dpi: int = 100) -> None:
    """One cell an object: a picture in grey or colour, below it its light curves; of a radio cube every plane.

    Parameters
    ----------
    samples : objects of one class.
    columns : cells in a row.
    panel : inches on a picture's side.
    """
    cube = "continuum" in samples.bands
    across = len(samples.bands) if cube else 1
    down = 2 if samples.series else 1
    columns = max(1, min(columns, len(samples.id)) // across)
    rows = -(-len(samples.id) // columns)
    figure = style.new_figure(panel * columns * across, panel * rows * down)
    grid = figure.add_gridspec(
        rows * down, columns * across, left=0, right=1, bottom=0, top=1, wspace=0.02, hspace=0.02
    )
    box = style.extent(samples.image.shape, samples.pixel_scale)
    for number in range(len(samples.id)):
        row, column = divmod(number, columns)
        image = samples.image[number]
        if cube:
            for plane in range(across):
                axes = figure.add_subplot(grid[row, column * across + plane])
                style.show(axes, image[plane], None, box, cmap=_MAP, norm=_stretch(image[plane]))
        else:
            axes = figure.add_subplot(grid[row * down, column])
            _picture(axes, image[style.coloured(samples.bands)], box)
            if samples.series:
                _light_curves(figure.add_subplot(grid[row * down + 1, column]), samples, number)
        if number == 0:
            style.scale_bar(figure.axes[0], box)
    style.save(figure, path, dpi)


def _picture(axes: Axes, image: NDArray[np.float32], box: style.Box) -> None:
    sigma = np.stack([np.full(plane.shape, _noise(plane)) for plane in image])
    valid = np.ones(image.shape, dtype=bool)
    if len(image) == 1:
        style.show(axes, image[0], None, box, cmap="gray", norm=_stretch(image[0]))
    else:
        style.show(axes, style.Composite.of(image, sigma, valid)(image), None, box)


def _light_curves(axes: Axes, samples: Samples, number: int) -> None:
    """By band, with error bars; zero is drawn."""
    time, flux, sigma = (samples.series[name][number] for name in ("time", "flux", "flux_sigma"))
    for b, band in enumerate(samples.bands):
        colour = _BAND_COLOURS.get(band, style.INK)
        axes.errorbar(time[:, b], flux[:, b], sigma[:, b], fmt="o-", ms=1.6, lw=0.6, elinewidth=0.5, color=colour)
    axes.axhline(0, color=style.MASKED, lw=0.6, zorder=0)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=style.MUTED, lw=0.6)


def _stretch(plane: NDArray[np.float32]) -> AsinhNorm:
    return style.asinh_norm(plane, np.full(plane.shape, _noise(plane)), np.ones(plane.shape, dtype=bool))


def _noise(plane: NDArray[np.float32]) -> float:
    """Robust rms of the lower half of the pixels."""
    middle = float(np.percentile(plane, 25))
    below = plane[plane <= middle]
    return max(1.4826 * float(np.median(np.abs(below - middle))) * 1.9, 1e-12)
