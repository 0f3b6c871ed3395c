"""Intersection over union, pooled over all pixels of all images before the ratio is taken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lenspipe.nets import compat  # noqa: F401  (before torchmetrics)
from lenspipe.types import CLASSES

from torchmetrics.classification import MulticlassConfusionMatrix  # isort: skip


class PooledIoU(MulticlassConfusionMatrix):
    """IoU per class and their mean. A class that occurs neither in truth nor in prediction has none: it is left out
    of the mean, never counted as 1."""

    def __init__(self) -> None:
        super().__init__(num_classes=len(CLASSES))

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """``iou_NAME`` of each class (NaN where absent) and ``macro_iou``."""
        counts = super().compute().double()
        hits = counts.diagonal()
        iou = hits / (counts.sum(0) + counts.sum(1) - hits)
        named: dict[str, Any] = {f"iou_{name}": value for name, value in zip(CLASSES, iou)}
        return {**named, "macro_iou": torch.nanmean(iou)}
