"""A picture of how training went."""

from __future__ import annotations

from pathlib import Path

from lenspipe.types import CLASSES


def plot(history: list[dict[str, float]], path: Path) -> None:
    """Losses and IoU by epoch, as a PNG file."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, ious = figure.subplots(1, 2)
    for name in ("train_loss", "val_loss"):
        losses.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
    losses.set(xlabel="epoch", ylabel="loss")
    for name in ("val_macro_iou", *(f"val_iou_{name}" for name in CLASSES)):
        ious.plot(epochs, [row[name] for row in history], marker=".", label=name.removeprefix("val_").replace("_", " "))
    ious.set(xlabel="epoch", ylabel="IoU, validation", ylim=(0, 1))
    for axes in (losses, ious):
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
