"""One page a candidate: what was seen, what the model says, how sure it is. And many at a glance."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lenspipe.types import CLASSES
from lenspipe.view import figures, style, text
from lenspipe.view.critical import critical_curves as trace_critical_curves


def sheet_figure(
    path: Path,
    *,
    fit: Mapping[str, Any],
    bands: Sequence[str],
    image: NDArray[Any],
    model: NDArray[Any],
    sigma: NDArray[Any],
    valid: NDArray[np.bool_],
    pixel_scale: float,
    masks: NDArray[Any] | None = None,
    masks_origin: str = "",
    magnification: NDArray[Any] | None = None,
    critical_curves: Sequence[NDArray[np.float64]] | None = None,
    caustics: Sequence[NDArray[np.float64]] = (),
    source_plane: NDArray[Any] | None = None,
    source_extent: style.Box = (-1, 1, -1, 1),
    ra: float = float("nan"),
    dec: float = float("nan"),
    cd: NDArray[np.float64] | None = None,
    truth: Mapping[str, float] | None = None,
) -> None:
    """The summary sheet, A4 landscape.

    Parameters
    ----------
    fit : the content of ``fit.json``.
    image, model, sigma, valid : (B, H, W), bands from blue to red.
    masks : (C, H, W) class probabilities; `masks_origin` says what made them.
    magnification, critical_curves, caustics, source_plane, source_extent : as for `figures.model_figure`.
    ra, dec : degrees.
    cd : (2, 2) degrees per pixel, for the compass.
    truth : true values of a simulation by parameter name; their own column in the table.
    """
    box = style.extent(image.shape, pixel_scale)
    if critical_curves is None:
        critical_curves = [] if magnification is None else trace_critical_curves(magnification, pixel_scale)
    composite = style.Composite.of(image, sigma, valid)
    figure = style.new_figure(11.69, 8.27)
    grid = figure.add_gridspec(2, 4, left=0.025, right=0.965, bottom=0.215, top=0.868, wspace=0.12, hspace=0.14)
    _header(figure, fit, bands, ra, dec)

    def panel(row: int, column: int, title: str) -> Axes:
        axes: Axes = figure.add_subplot(grid[row, column])
        style.heading(axes, title)
        return axes

    picture = composite(image)
    axes = panel(0, 0, f"observed, {' '.join(bands)}")
    style.show(axes, picture, np.isfinite(image).all(0), box)
    style.scale_bar(axes, box)
    if cd is not None:
        style.compass(axes, box, cd)

    axes = panel(0, 1, "segmentation" + (f" ({masks_origin})" if masks_origin else ""))
    style.show(axes, picture * 0.75, np.isfinite(image).all(0), box)
    _masks(axes, masks, box)

    axes = panel(0, 2, "model, with critical curves")
    style.show(axes, composite(model), None, box)
    style.curves(axes, critical_curves, style.CRITICAL, 0.7)

    axes = panel(0, 3, "normalised residual, bands together" if len(bands) > 1 else "normalised residual")
    usable = np.any(valid, axis=0)
    scaled = np.where(valid, (image - model) / sigma, 0)
    together = scaled.sum(0) / np.sqrt(np.maximum(valid.sum(0), 1))
    style.colour_bar(axes, figures.draw_residual(axes, together, usable, box), "", ticks=(-5, 0, 5))

    axes = panel(1, 0, "unlensed source, with caustics")
    if source_plane is None:
        _nothing(axes, "no source in the model")
    else:
        figures.draw_source(axes, figures.source_picture(source_plane, composite), source_extent, caustics)

    axes = panel(1, 1, "magnification")
    if magnification is None:
        _nothing(axes, "no mass in the model")
    else:
        artist = figures.draw_magnification(axes, magnification, box, critical_curves)
        style.colour_bar(axes, artist, "log₁₀ |magnification|", ticks=(-1, 0, 1, 2))

    known = {name: value for name, value in (truth or {}).items() if name in fit["parameters"] and np.isfinite(value)}
    _table(figure.add_axes((0.56, 0.235, 0.405, 0.3)), fit["parameters"], "parameter", known)
    if fit["derived"]:
        _table(figure.add_axes((0.38, 0.02, 0.3, 0.17)), fit["derived"], "derived", {})
    _footer(figure, fit)
    style.save(figure, path, dpi=130)


def _header(figure: Figure, fit: Mapping[str, Any], bands: Sequence[str], ra: float, dec: float) -> None:
    figure.text(0.025, 0.957, fit["id"], fontsize=18, weight="bold", color=style.INK, va="center")
    facts = [f"RA {ra:.5f}°   Dec {dec:+.5f}°" if np.isfinite(ra + dec) else "position unknown"]
    ((_, median, minus, plus, _),) = text.rows(
        {"theta_E": fit["parameters"].get("theta_E") or fit["derived"]["theta_E_effective"]}
    )
    facts.append(rf"$\theta_\mathrm{{E}} = {median}^{{+{plus}}}_{{-{minus}}}$ arcsec")
    figure.text(0.025, 0.915, "      ".join(facts), fontsize=10.5, color=style.INK, va="center")
    figure.text(
        0.965,
        0.95,
        fit["status"].upper(),
        fontsize=13,
        weight="bold",
        color="white",
        ha="right",
        va="center",
        bbox={"boxstyle": "round,pad=0.45", "facecolor": style.STATUS_COLOURS[fit["status"]], "edgecolor": "none"},
    )


def _masks(axes: Axes, masks: NDArray[Any] | None, box: style.Box) -> None:
    if masks is None:
        axes.text(0.5, 0.03, "not segmented", transform=axes.transAxes, ha="center", color="white", fontsize=8)
        return
    most_likely = masks.argmax(0)
    handles = []
    for name in ("lens", "noise", "source"):  # the source last: its outline is the one to see
        here = most_likely == CLASSES.index(name)
        if not here.any():
            continue
        colour = style.CLASS_COLOURS[name]
        # A border of False closes the outlines that reach the edge of the image.
        step_x, step_y = (box[1] - box[0]) / here.shape[1], (box[3] - box[2]) / here.shape[0]
        x = box[0] + (np.arange(-1, here.shape[1] + 1) + 0.5) * step_x
        y = box[2] + (np.arange(-1, here.shape[0] + 1) + 0.5) * step_y
        tint = np.zeros((*here.shape, 4))
        tint[here] = to_rgba(colour, 0.22)
        axes.imshow(tint, origin="lower", extent=box, interpolation="nearest")
        axes.contour(x, y, np.pad(here, 1).astype(float), levels=[0.5], colors=[colour], linewidths=1.3)
        handles.append(Line2D([], [], color=colour, lw=2, label="other objects" if name == "noise" else name))
    axes.set(xlim=box[:2], ylim=box[2:])
    if handles:
        axes.legend(handles=handles, loc="lower left", fontsize=7, framealpha=0.85, handlelength=1, borderpad=0.3)


def _nothing(axes: Axes, why: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=style.MUTED, fontsize=9)


def _table(axes: Axes, quantities: Mapping[str, Mapping[str, Any]], title: str, truth: Mapping[str, float]) -> None:
    """As many rows as there are quantities, the print as small as that needs; the true values where some are known."""
    axes.set_axis_off()
    rows = text.rows(quantities)
    width, height = axes.get_position().width * 11.69, axes.get_position().height * 8.27 * 72  # inches, points
    step = min(1 / (len(rows) + 1), 12.5 / height)
    size = min(0.68 * step * height, 2.0 * width)
    columns = {"name": 0.0, "median": 0.54, "minus": 0.67, "plus": 0.8, "unit": 0.82, "truth": 1.0}
    y = 1 - step / 2

    def write(key: str, words: str, colour: str = style.INK, weight: str = "normal") -> None:
        side = "left" if key in ("name", "unit") else "right"
        axes.text(columns[key], y, words, fontsize=size, color=colour, weight=weight, ha=side, va="center")

    heads = {"name": title, "median": "median", "minus": "−68 %", "plus": "+68 %"}
    for key, head in ({**heads, "truth": "truth"} if truth else heads).items():
        write(key, head, style.MUTED)
    axes.plot([0, 1], [1 - step, 1 - step], color=style.MASKED, lw=0.7)
    for name, median, minus, plus, unit in rows:
        y -= step
        weight = "bold" if name == "theta_E" else "normal"
        write("name", name, weight=weight)
        for key, value in (("median", median.replace("-", "−")), ("minus", minus), ("plus", plus)):
            write(key, value, weight=weight)
        write("unit", unit, style.MUTED)
        known = truth.get(name, float("nan"))
        if np.isfinite(known):
            write("truth", f"{known:.{len(median.partition('.')[2])}f}".replace("-", "−"), "#0072b2")
    axes.set(xlim=(0, 1), ylim=(0, 1))


def _footer(figure: Figure, fit: Mapping[str, Any]) -> None:
    words = [text.VERDICTS[fit["status"]].capitalize() + "."]
    for reason in fit["reasons"]:
        words += textwrap.wrap(reason["sentence"], 58, initial_indent="•  ", subsequent_indent="    ")
    figure.text(0.025, 0.187, "\n".join(words[:10]), fontsize=8.5, color=style.INK, va="top", linespacing=1.45)
    pairs = [*text.sampler_lines(fit), ("lenspipe", fit["versions"]["lenspipe"])]
    for line, (name, value) in enumerate(pairs):
        y = 0.178 - 0.0158 * line
        figure.text(0.745, y, name, fontsize=7.2, color=style.MUTED, va="baseline")
        figure.text(0.965, y, value, fontsize=7.2, color=style.INK, ha="right", va="baseline")
