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
    entropy = F.cross_entropy(logits, label, weight=class_weight)
    return entropy + dice(logits.softmax(1), label)


def dice(probability: Tensor, label: Tensor) -> Tensor:
    """1 - soft Dice, pooled over the batch, mean over the classes that occur in it (Milletari et al. 2016)."""
    truth = F.one_hot(label, probability.shape[1]).movedim(-1, 1).to(probability.dtype)
    axes = (0, 2, 3)
    overlap, total = (probability * truth).sum(axes), (probability + truth).sum(axes)
    occurs = truth.sum(axes) > 0
    return 1 - (2 * overlap / total.clamp(min=torch.finfo(total.dtype).tiny))[occurs].mean()
