"""Losses on logits and class indices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy_dice(logits: Tensor, label: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """Cross-entropy, which calibrates, plus 1 - Dice, which does not care how rare a class is.

    Parameters
    ----------
    logits : (N, C, H, W).
    label : (N, H, W) class indices.
    class_weight : (C,) weights of the cross-entropy.
    """
    return cross_entropy_dice_of(cross_entropy_dice_sums(logits, label, class_weight))


def cross_entropy_dice_sums(logits: Tensor, label: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """(2 + 3 C,) what `cross_entropy_dice` is made of; adds up over batches and over ranks."""
    entropy = F.cross_entropy(logits, label, weight=class_weight, reduction="sum")
    weight = logits.new_tensor(label.numel()) if class_weight is None else class_weight[label].sum()
    return torch.cat([torch.stack([entropy, weight]), *dice_sums(logits.softmax(1), label)])


def cross_entropy_dice_of(sums: Tensor) -> Tensor:
    """The loss of such sums."""
    entropy, weight = sums[:2]
    return entropy / weight + _dice(*sums[2:].reshape(3, -1))


def dice(probability: Tensor, label: Tensor) -> Tensor:
    """1 - soft Dice, pooled over the batch, mean over the classes that occur in it (Milletari et al. 2016)."""
    return _dice(*dice_sums(probability, label))


def dice_sums(probability: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each class (C,): overlap of probability and truth, sum of both, pixels that are truly of it."""
    truth = F.one_hot(label, probability.shape[1]).movedim(-1, 1).to(probability.dtype)
    axes = (0, 2, 3)
    return (probability * truth).sum(axes), (probability + truth).sum(axes), truth.sum(axes)


def _dice(overlap: Tensor, total: Tensor, truth: Tensor) -> Tensor:
    return 1 - (2 * overlap / total.clamp(min=torch.finfo(total.dtype).tiny))[truth > 0].mean()
