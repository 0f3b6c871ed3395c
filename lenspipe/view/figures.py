"""Pictures of one candidate's model and of its sampling. Arrays in, a PNG out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lenspipe.view import style
from lenspipe.view.critical import critical_curves as trace_critical_curves

LENS_MASS = (
    "theta_E",
    "e1",
    "e2",
    "gamma1",
    "gamma2",
    "center_x",
    "center_y",
    "source_center_x",
    "source_center_y",
)
"""What a corner plot shows by default: the deflector and where the source lies behind it."""


def draw_residual(axes: Axes, residual: NDArray[Any], valid: NDArray[np.bool_], box: style.Box) -> Any:
    """(data - model) / sigma between -5 and 5, masked pixels hatched."""
    return style.show(axes, residual, valid, box, cmap=style.colour_map("RdBu_r"), vmin=-5, vmax=5)


def draw_magnification(
    axes: Axes, magnification: NDArray[Any], box: style.Box, lines: Sequence[NDArray[np.float64]]
) -> Any:
    """log10 |magnification| between 0.1 and 100, with the critical curves."""
    size = np.log10(np.clip(np.abs(magnification), 0.1, 100))
    artist = style.show(axes, size, None, box, cmap=style.colour_map("viridis"), vmin=-1, vmax=2)
    style.curves(axes, lines, style.CRITICAL)
    return artist


def draw_source(axes: Axes, picture: NDArray[Any], box: style.Box, caustics: Sequence[NDArray[np.float64]]) -> None:
    """The source as it would look unlensed, (h, w) or RGB (h, w, 3), with the caustics."""
    style.show(axes, picture, None, box, cmap="magma")
    style.curves(axes, caustics, style.CAUSTIC)
    style.scale_bar(axes, box)


def source_picture(source: NDArray[Any], composite: style.Composite) -> NDArray[np.float64]:
    """Unlensed, noiseless (B, h, w) surface brightness in the colours of `composite`, white at its own peak."""
    peak = float((source / composite.scale).max())
    return style.Composite(np.zeros_like(composite.offset), composite.scale * max(peak, 1e-300) / 50, 50.0)(source)


def model_figure(
    path: Path,
    *,
    bands: Sequence[str],
    image: NDArray[Any],
    model: NDArray[Any],
    sigma: NDArray[Any],
    valid: NDArray[np.bool_],
    pixel_scale: float,
    title: str,
    unit: str = "",
    magnification: NDArray[Any] | None = None,
    critical_curves: Sequence[NDArray[np.float64]] | None = None,
    caustics: Sequence[NDArray[np.float64]] = (),
    source_plane: NDArray[Any] | None = None,
    source_extent: style.Box = (-1, 1, -1, 1),
) -> None:
    """Observed, model and normalised residual of each band, the magnification, the unlensed source.

    Parameters
    ----------
    image, model, sigma, valid : (B, H, W); `valid` False where the likelihood does not look.
    pixel_scale : arcsec per pixel.
    unit : of `image`, for the colour bar.
    magnification : (H, W), signed.
    critical_curves, caustics : polylines (K, 2) of x, y in arcsec; critical curves are traced on the
        magnification where None.
    source_plane, source_extent : (B, h, w), and (left, right, bottom, top) in arcsec.
    """
    box = style.extent(image.shape, pixel_scale)
    if critical_curves is None:
        critical_curves = [] if magnification is None else trace_critical_curves(magnification, pixel_scale)
    extras = []
    if magnification is not None:
        extras.append("magnification")
    if source_plane is not None:
        extras.append("unlensed source")
    rows = len(bands)
    columns = 3 + -(-len(extras) // rows)
    # In inches: only panels with a colour bar need room on their right.
    side, bar_room, left, top = 2.3, 0.62, 0.12, 0.55
    lefts = left + np.cumsum([0, side + 0.1, *[side + bar_room] * (columns - 2)])
    width, height = lefts[-1] + side + bar_room, top + (side + 0.12) * rows
    figure = style.new_figure(width, height)

    def panel(row: int, column: int) -> Axes:
        bottom = height - top - side - (side + 0.12) * row
        axes: Axes = figure.add_axes((lefts[column] / width, bottom / height, side / width, side / height))
        return axes

    figure.text(left / width, 1 - 0.1 / height, title, ha="left", va="top", fontsize=11, color=style.INK)
    for b, band in enumerate(bands):
        observed, modelled, difference = (panel(b, column) for column in range(3))
        norm = style.asinh_norm(image[b], sigma[b], valid[b])
        cmap = style.colour_map("magma")
        style.show(observed, image[b], None, box, cmap=cmap, norm=norm)
        artist = style.show(modelled, model[b], None, box, cmap=cmap, norm=norm)
        style.colour_bar(modelled, artist, unit, style.asinh_ticks(norm))
        style.scale_bar(observed, box)
        artist = draw_residual(difference, (image[b] - model[b]) / sigma[b], valid[b], box)
        style.colour_bar(difference, artist, "(data − model) / σ", (-5, 0, 5))
        style.note(observed, band)
        style.curves(modelled, critical_curves, style.CRITICAL, 0.6)
        if b == 0:
            for axes, text in ((observed, "observed"), (modelled, "model"), (difference, "normalised residual")):
                style.heading(axes, text)
    for place, extra in enumerate(extras):
        axes = panel(place % rows, 3 + place // rows)
        if extra == "magnification":
            artist = draw_magnification(axes, np.asarray(magnification), box, critical_curves)
            style.colour_bar(axes, artist, "log₁₀ |magnification|", (-1, 0, 1, 2))
        else:
            composite = style.Composite.of(image, sigma, valid)
            draw_source(axes, source_picture(np.asarray(source_plane), composite), source_extent, caustics)
        if place % rows == 0:
            style.heading(axes, extra)
        else:
            style.note(axes, extra)
    style.save(figure, path)


def some(available: int, wanted: int) -> NDArray[np.int64]:
    """Sorted indices of at most `wanted` of `available` draws, the same each time.

    Not evenly spaced: walkers are interleaved, and a stride that shares a factor with their number sees but a few.
    """
    if available <= wanted:
        return np.arange(available)
    return np.sort(np.random.default_rng(0).choice(available, wanted, replace=False))


def corner_figure(
    path: Path,
    samples: NDArray[np.float64],
    names: Sequence[str],
    units: Sequence[str],
    best: NDArray[np.float64] | None = None,
    truth: NDArray[np.float64] | None = None,
    show: Sequence[str] = LENS_MASS,
    draws: int = 4000,
) -> None:
    """Marginal posteriors of `show` (those of it that are sampled; all, where none is).

    Parameters
    ----------
    samples : (S, P).
    best, truth : (P,), the optimum (orange) and the true values of a simulation (green, NaN where unknown).
    draws : samples that are drawn: more would not be seen.
    """
    import corner

    columns = [names.index(n) for n in show if n in names] or list(range(len(names)))
    picked = samples[some(len(samples), draws)][:, columns]
    limits = []
    for column in picked.T:
        low, high = np.percentile(column, (0.1, 99.9))
        pad = 0.05 * (high - low) or 1e-6 * max(1.0, abs(low))
        limits.append((low - pad, high + pad))
    size = max(3.0, 1.15 * len(columns) + 0.8)
    figure = style.new_figure(size, size)
    corner.corner(
        picked,
        fig=figure,
        bins=24,
        range=limits,
        labels=[style.label(names[i], units[i]) for i in columns],
        label_kwargs={"fontsize": 8},
        labelpad=0.06,
        max_n_ticks=3,
        color="#26456e",
        smooth=0.9,
        plot_datapoints=False,
        fill_contours=True,
        quantiles=(0.16, 0.5, 0.84),
        levels=(0.393, 0.865),
    )
    handles = []
    for values, colour, text in ((best, "#d55e00", "optimum"), (truth, "#009e73", "truth")):
        if values is not None:
            point = [float(values[i]) if np.isfinite(values[i]) else None for i in columns]
            corner.overplot_lines(figure, point, color=colour, lw=0.9)
            handles.append(Line2D([], [], color=colour, lw=1.5, label=text))
    if handles and len(columns) > 1:
        figure.legend(handles=handles, loc="upper right", fontsize=10, frameon=False, bbox_to_anchor=(0.98, 0.97))
    for axes in figure.axes:
        axes.tick_params(labelsize=6)
    style.save(figure, path, dpi=100, bbox_inches="tight")


def trace_figure(
    path: Path,
    samples: NDArray[np.float64],
    names: Sequence[str],
    units: Sequence[str],
    log_prob: NDArray[np.float64],
    rhat: Sequence[float] | None = None,
    ess: Sequence[float] | None = None,
    draws: int = 1200,
) -> None:
    """Every parameter along the chain, one colour an ensemble, R-hat and effective sample size above.

    Parameters
    ----------
    samples, log_prob : (chain, draw, P) and (chain, draw).
    rhat, ess : P values each.
    draws : points that are drawn of each chain.
    """
    panels = len(names) + 1
    columns = 3
    rows = -(-panels // columns)
    figure = style.new_figure(11, 1.25 * rows + 0.5)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.35 / (1.25 * rows + 0.5), top=0.97, wspace=0.2, hspace=0.42)
    along = some(samples.shape[1], draws)
    # A line through interleaved walkers is noise; a running median over 1/30 of the chain shows a drift.
    window = max(1, len(along) // 30)
    for p, axes in enumerate(grid[:panels]):
        values = log_prob if p == panels - 1 else samples[:, :, p]
        for c, chain in enumerate(values[:, along]):
            colour = style.CHAIN_COLOURS[c % len(style.CHAIN_COLOURS)]
            axes.plot(along, chain, ".", color=colour, alpha=0.3, ms=1.8, mew=0)
            whole = len(chain) // window * window
            blocks = chain[:whole].reshape(-1, window)
            axes.plot(along[window // 2 : whole : window], np.median(blocks, 1), color=colour, lw=0.9)
        text = "log posterior" if p == panels - 1 else style.label(names[p], units[p])
        if p < len(names) and rhat is not None and ess is not None:
            text += rf"    $\hat R$ = {rhat[p]:.3f}   ESS = {ess[p]:,.0f}"
        axes.set_title(text, fontsize=7.5, loc="left", color=style.INK, pad=2)
        axes.tick_params(labelsize=6, length=2)
        axes.margins(x=0)
    for axes in grid[panels:]:
        axes.set_visible(False)
    for axes in grid[max(0, panels - columns) : panels]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("draw", fontsize=7)
    style.save(figure, path, dpi=100)
