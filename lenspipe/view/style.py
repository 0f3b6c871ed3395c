"""The common look: canvas, colours, stretches, scale bars, labels. No pyplot, so no global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm, Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from numpy.typing import NDArray

INK, MUTED, MASKED = "#1b1f24", "#5c6670", "#c9ced4"
CLASS_COLOURS = {"source": "#56b4e9", "lens": "#e69f00", "noise": "#cc79a7", "background": "#999999"}
STATUS_COLOURS = {"good": "#00684a", "suspect": "#8a5a00", "failed": "#a3201c"}
CHAIN_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#3a3a3a")
Box = tuple[float, float, float, float]
"""Left, right, bottom, top in arcsec."""
CRITICAL, CAUSTIC = "#ffffff", "#ffd166"

_SYMBOLS = {
    "theta_E": r"$\theta_\mathrm{E}$",
    "e1": "$e_1$",
    "e2": "$e_2$",
    "gamma1": r"$\gamma_1$",
    "gamma2": r"$\gamma_2$",
    "center_x": "$x$",
    "center_y": "$y$",
    "R_sersic": "$R$",
    "n_sersic": "$n$",
}


def symbol(name: str) -> str:
    """How a parameter is written on an axis: ``source_e1`` -> ``$e_1$ source``."""
    for tail, text in _SYMBOLS.items():
        if name == tail:
            return text
        if name.endswith(f"_{tail}"):
            return f"{text} {name.removesuffix(f'_{tail}').replace('_', ' ')}"
    return name.replace("_", " ")


def label(name: str, unit: str) -> str:
    """`symbol` with its unit in brackets, if it has one."""
    return f"{symbol(name)} [{unit}]" if unit else symbol(name)


def new_figure(width: float, height: float) -> Figure:
    """An empty Agg figure of `width` x `height` inches."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, dpi: int = 110, **options: Any) -> None:
    """Write a PNG whatever the suffix of `path` (a temporary name may have any)."""
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": "lenspipe"}, **options)


def heading(axes: Axes, text: str) -> None:
    """A panel's title."""
    axes.set_title(text, fontsize=9, color=INK, pad=4)


def note(axes: Axes, text: str) -> None:
    """White words in the upper left corner of a picture."""
    halo: list[AbstractPathEffect] = [withStroke(linewidth=2.6, foreground="black")]
    written = axes.text(0.04, 0.95, text, transform=axes.transAxes, color="white", fontsize=10, va="top")
    written.set_path_effects(halo)


def extent(shape: Sequence[int], pixel_scale: float) -> Box:
    """Edges in arcsec of an (H, W) image with its centre at the origin."""
    half_y, half_x = (n * pixel_scale / 2 for n in shape[-2:])
    return -half_x, half_x, -half_y, half_y


def colour_map(name: str) -> Colormap:
    """A copy of a colour map that leaves masked pixels empty, so that the hatching below shows."""
    return colormaps[name].with_extremes(bad=(0, 0, 0, 0))


def show(axes: Axes, values: NDArray[Any], valid: NDArray[np.bool_] | None, box: Box, **options: Any) -> Any:
    """`imshow` of (H, W) or RGB (H, W, 3), row 0 at the bottom, masked pixels hatched."""
    usable = np.isfinite(values if values.ndim == 2 else values.sum(-1))
    if valid is not None:
        usable &= valid
    if not usable.all():
        left, right, bottom, top = box
        corner = (left, bottom)
        patch = Rectangle(corner, right - left, top - bottom, facecolor=MASKED, edgecolor="#8b949e", hatch="////", lw=0)
        axes.add_patch(patch).set_zorder(-1)
        if values.ndim == 2:
            values = np.ma.masked_where(~usable, values)
        else:
            values = np.dstack([np.nan_to_num(values), usable])
    artist = axes.imshow(values, origin="lower", extent=box, interpolation="nearest", **options)
    axes.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=MUTED, lw=0.6)
    return artist


def colour_bar(axes: Axes, artist: Any, text: str, ticks: Sequence[float] | None = None) -> None:
    """A thin colour bar along the right edge of `axes`."""
    bar = axes.figure.colorbar(artist, cax=axes.inset_axes((1.02, 0, 0.035, 1)))
    bar.set_label(text, fontsize=7, color=INK)
    if ticks is not None:
        bar.set_ticks(ticks, labels=[f"{tick:g}".replace("-", "−") for tick in ticks])
        bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=6.5, length=2)
    bar.outline.set_linewidth(0.5)


def scale_bar(axes: Axes, box: Box) -> None:
    """A bar of a round number of arcsec, about a quarter of the width, in the lower left corner."""
    width = box[1] - box[0]
    steps = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5)]
    length = min(steps, key=lambda s: abs(s - width / 4))
    x, y = box[0] + 0.06 * width, box[2] + 0.06 * (box[3] - box[2])
    halo: list[AbstractPathEffect] = [withStroke(linewidth=2.6, foreground="black")]
    axes.plot([x, x + length], [y, y], color="white", lw=1.6, solid_capstyle="butt", path_effects=halo)
    text = axes.text(
        x + length / 2, y + 0.02 * width, f"{length:g}″", ha="center", va="bottom", color="white", fontsize=8
    )
    text.set_path_effects(halo)


def compass(axes: Axes, box: Box, cd: NDArray[np.float64]) -> None:
    """North and east arrows in the upper right corner, from the (2, 2) matrix of degrees per pixel."""
    size = 0.11 * (box[1] - box[0])
    north, east = np.linalg.inv(cd) @ (0.0, 1.0), np.linalg.inv(cd) @ (1.0, 0.0)
    arms = {"N": north / np.hypot(*north), "E": east / np.hypot(*east)}
    mean = sum(arms.values()) / 2
    start = np.array([box[1], box[3]]) - 1.7 * size - size * mean
    halo: list[AbstractPathEffect] = [withStroke(linewidth=2.4, foreground="black")]
    for name, arm in arms.items():
        tip, place = start + size * arm, start + 1.35 * size * arm
        axes.plot(*zip(start, tip), color="white", lw=1.3, path_effects=halo)
        text = axes.text(place[0], place[1], name, color="white", fontsize=7.5, ha="center", va="center")
        text.set_path_effects(halo)


def curves(axes: Axes, lines: Sequence[NDArray[np.float64]], colour: str, width: float = 0.9) -> None:
    """Draw polylines, each (K, 2) of x, y in arcsec."""
    for line in lines:
        axes.plot(line[:, 0], line[:, 1], color=colour, lw=width)


def asinh_norm(image: NDArray[Any], sigma: NDArray[Any], valid: NDArray[np.bool_]) -> AsinhNorm:
    """The stretch of one band, for its image and its model alike: linear below 2 sigma, asinh above."""
    if not valid.any():
        return AsinhNorm(linear_width=1, vmin=-1, vmax=5)
    values, noise = image[valid], float(np.median(sigma[valid]))
    low, high = np.percentile(values, (1, 99.9))
    return AsinhNorm(linear_width=2 * noise, vmin=min(low, -noise), vmax=max(high, low + 5 * noise))


def asinh_ticks(norm: AsinhNorm) -> list[float]:
    """Zero, the powers of ten above the linear part and, if these are few, the top rounded to one digit."""
    linear, top = float(norm.linear_width), float(norm.vmax or 0)
    powers = [10.0**e for e in range(math.ceil(math.log10(linear)), math.floor(math.log10(top)) + 1)]
    if not powers or top > 3 * powers[-1]:
        unit = 10.0 ** math.floor(math.log10(top))
        powers.append(math.floor(top / unit) * unit)
    return [0.0, *powers]


def coloured(bands: Sequence[str]) -> list[int]:
    """Which planes make a picture: the three bluest, but u where there are others, whose noise would drown them."""
    seen = [b for b, name in enumerate(bands) if name != "u"]
    return (seen if len(seen) >= 3 else list(range(len(bands))))[:3]


@dataclass(frozen=True)
class Composite:
    """A colour stretch, fixed on one image and good for its model too.

    After Lupton et al. 2004, eq. 2, but the brightest band is stretched and not the mean: nothing below `top`
    saturates, so that colours and shapes are seen in the cores of galaxies too.

    Attributes
    ----------
    offset, scale : (B, 1, 1), subtracted sky and noise of each band.
    top : of the brightest band, in units of the noise, that comes out at full brightness.
    """

    offset: NDArray[np.float64]
    scale: NDArray[np.float64]
    top: float

    @classmethod
    def of(cls, image: NDArray[Any], sigma: NDArray[Any], valid: NDArray[np.bool_]) -> Composite:
        """From (B, H, W) image, sigma, valid: the sky is the 20th percentile of each band."""
        offset = np.array([np.percentile(i[v], 20) if v.any() else 0.0 for i, v in zip(image, valid)])
        scale = np.array([np.median(s[v]) if v.any() else 1.0 for s, v in zip(sigma, valid)])
        offset, scale = offset[:, None, None], scale[:, None, None]
        brightest = np.where(valid, (image - offset) / scale, 0).max(0)
        return cls(offset, scale, max(float(np.percentile(brightest, 99.8)), 5.0))

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float64]:
        """(B, H, W) -> RGB (H, W, 3) in 0 to 1, the reddest (last) band red; one band comes out grey."""
        bands = np.nan_to_num((image - self.offset) / self.scale)
        b = len(bands)
        blue, green, red = bands[0], bands[b // 2] if b != 2 else bands.mean(0), bands[-1]
        rgb = np.stack([red, green, blue], axis=-1)
        brightest = np.minimum(rgb.max(-1, keepdims=True), self.top)
        soft = 3.0
        stretched = np.arcsinh(np.maximum(brightest, 0) / soft) / np.arcsinh(self.top / soft)
        return np.clip(rgb / np.maximum(rgb.max(-1, keepdims=True), 1e-6) * stretched, 0, 1)
