"""Scores of segmentations. All pool the pixels of all images before a ratio is taken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lenspipe.nets import compat  # noqa: F401  (before torchmetrics)
from lenspipe.types import CLASSES

from torchmetrics import Metric  # isort: skip
from torchmetrics.classification import MulticlassConfusionMatrix  # isort: skip

_BACKGROUND = CLASSES.index("background")
SURE = 0.99
"""Probability of the background above which a pixel's calibration is of no interest."""
_BINS = 15


class Scores(MulticlassConfusionMatrix):
    """All ratios of the pooled confusion matrix, as `compute` names them. A class that occurs neither in truth nor in
    prediction has no IoU: it is left out of the mean, never counted as 1."""

    def __init__(self) -> None:
        super().__init__(num_classes=len(CLASSES))

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """For each of ``iou dice precision recall``: ``X_NAME`` of each class (NaN where it is not defined), the mean
        of all classes ``macro_X``, and that of all but the background ``macro_X_foreground``.

        ``iou_NAME_with_background`` is the mean of the class's IoU and of that of all the rest: two numbers that
        others have called mIoU, and the larger one.
        """
        counts = super().compute()
        scores: dict[str, Tensor] = {}
        for kind, values in _ratios(counts).items():
            scores |= _by_class(kind, values)
            scores[f"macro_{kind}"] = torch.nanmean(values)
            scores[f"macro_{kind}_foreground"] = torch.nanmean(values[torch.arange(len(CLASSES)) != _BACKGROUND])
        hits, total = counts.diagonal().double(), counts.sum().double()
        union = (counts.sum(0) + counts.sum(1)).double() - hits
        # Of a class against all the rest, the rest's intersection is all but the class's union.
        rest = (total - union) / (total - hits)
        for name, one, other in zip(CLASSES, scores_of("iou", scores), rest):
            scores[f"iou_{name}_with_background"] = (one + other) / 2
        return scores


class NearIoU(Metric):
    """IoU per class with pixels forgiven that are off by one: a pixel is right where the other map has its class
    within one pixel, also by a corner. From the precision P and recall R so defined: IoU = 1 / (1/P + 1/R - 1)."""

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(4, len(CLASSES), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, label: Tensor) -> None:
        """(N, H, W) class indices both."""
        ours, theirs = (F.one_hot(x.long(), len(CLASSES)).movedim(-1, 1).float() for x in (predicted, label))
        near_ours, near_theirs = (F.max_pool2d(x, 3, 1, 1) for x in (ours, theirs))
        sums = [x.sum((0, 2, 3)) for x in (ours * near_theirs, ours, theirs * near_ours, theirs)]
        self.counts += torch.stack(sums)

    def compute(self) -> dict[str, Tensor]:
        """``near_iou_NAME`` and ``near_macro_iou``."""
        precision, recall = self.counts[0] / self.counts[1], self.counts[2] / self.counts[3]
        # Found nowhere, or only where it is not: 0. Neither in truth nor in prediction: undefined.
        precision, recall = (
            torch.where(self.counts[1] + self.counts[3] > 0, x.nan_to_num(), x) for x in (precision, recall)
        )
        iou = 1 / (1 / precision + 1 / recall - 1)
        return {**_by_class("near_iou", iou), "near_macro_iou": torch.nanmean(iou)}


class CalibrationError(Metric):
    """Expected calibration error (Guo et al. 2017, eq. 3, fifteen bins of the highest class's probability) over the
    pixels that are not surely background."""

    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("bins", torch.zeros(3, _BINS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probability: Tensor, label: Tensor) -> None:
        """(N, C, H, W) and (N, H, W) class indices."""
        confidence, best = probability.max(1)
        chosen = probability[:, _BACKGROUND] < SURE
        confidence, right = confidence[chosen].double(), (best == label)[chosen].double()
        place = (confidence * _BINS).long().clamp(max=_BINS - 1)
        for row, values in zip(self.bins, (torch.ones_like(confidence), confidence, right)):
            row.index_add_(0, place, values)

    def compute(self) -> dict[str, Tensor]:
        """``ece``; NaN where every pixel is surely background."""
        number, confidence, right = self.bins
        return {"ece": (confidence - right).abs().sum() / number.sum()}


def scores_of(kind: str, scores: dict[str, Tensor]) -> list[Tensor]:
    """The values of each class, in the order of the classes."""
    return [scores[f"{kind}_{name}"] for name in CLASSES]


def _ratios(counts: Tensor) -> dict[str, Tensor]:
    """From (C, C) counts, truth by prediction."""
    hits, truth, predicted = (x.double() for x in (counts.diagonal(), counts.sum(1), counts.sum(0)))
    return {
        "iou": hits / (truth + predicted - hits),
        "dice": 2 * hits / (truth + predicted),
        "precision": hits / predicted,
        "recall": hits / truth,
    }


def _by_class(kind: str, values: Tensor) -> dict[str, Any]:
    return {f"{kind}_{name}": value for name, value in zip(CLASSES, values)}
