"""A picture of how training went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plot(history: list[dict[str, float]], path: Path, figures: Sequence[str], what: str) -> None:
    """Losses by epoch, and beside them `figures` between 0 and 1 on the validation objects, as a PNG file.

    Parameters
    ----------
    what : the figures' common name, for the axis.
    """
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, others = figure.subplots(1, 2)
    for name in ("train_loss", "val_loss"):
        losses.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
    losses.set(xlabel="epoch", ylabel="loss")
    for name in figures:
        others.plot(epochs, [row[f"val_{name}"] for row in history], marker=".", label=name.replace("_", " "))
    others.set(xlabel="epoch", ylabel=f"{what}, validation", ylim=(0, 1))
    for axes in (losses, others):
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
