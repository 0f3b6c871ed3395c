"""Losses on logits and class indices. All see the same softmax probabilities as metric and inference do.

A loss is a function of sums over pixels: ranks that share a batch add their sums and then take the loss, so that it is
that of the whole batch, however it is shared out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lenspipe.nets.config import LossConfig
from lenspipe.types import CLASSES


class Loss:
    """The weighted sum that `config` asks for."""

    def __init__(self, config: LossConfig):
        self.config = config

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss, a scalar, of (N, C, H, W) logits against (N, H, W) class indices."""
        return self.of(self.sums(logits, label))

    @property
    def size(self) -> int:
        """K of `sums`."""
        return 4 + 3 * len(CLASSES)

    def sums(self, logits: Tensor, label: Tensor) -> Tensor:
        """(K,) f4: pixels; summed cross-entropy, focal loss and binary cross-entropy; and by class the sums of p t, of
        p + t and of t, p the probability and t the truth."""
        log_p = logits.float().log_softmax(1)
        p = log_p.exp()
        truth = F.one_hot(label, logits.shape[1]).movedim(-1, 1).to(p.dtype)
        true_log_p = log_p.gather(1, label[:, None])
        zero = log_p.new_zeros(())
        pixels = log_p.new_tensor(float(label.numel()))
        focal = focal_loss(true_log_p, self.config.focal_gamma).sum() if self.config.focal else zero
        binary = binary_cross_entropy(log_p, truth).sum() if self.config.binary_cross_entropy else zero
        by_class = [x.sum((0, 2, 3)) for x in (p * truth, p + truth, truth)]
        return torch.cat([torch.stack([pixels, -true_log_p.sum(), focal, binary]), *by_class])

    def of(self, sums: Tensor) -> Tensor:
        """The loss, a scalar, of (K,) `sums` over all pixels of a step."""
        c = self.config
        pixels, entropy, focal, binary = sums[:4]
        overlap, total, truth = sums[4:].reshape(3, -1)
        # Rare classes weigh as much as frequent ones, and those that do not occur nothing.
        occurs, tiny = truth > 0, torch.finfo(sums.dtype).tiny
        dice = 1 - (2 * overlap / total.clamp(min=tiny))[occurs].mean()
        jaccard = 1 - (overlap / (total - overlap).clamp(min=tiny))[occurs].mean()
        by_pixel = c.cross_entropy * entropy + c.focal * focal + c.binary_cross_entropy * binary
        return by_pixel / pixels + c.dice * dice + c.jaccard * jaccard


def focal_loss(log_p: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p, from log p of the true class (Lin et al. 2017, eq. 4)."""
    return -((1 - log_p.exp()).clamp(min=0) ** gamma) * log_p


def binary_cross_entropy(log_p: Tensor, truth: Tensor) -> Tensor:
    """Mean over the classes of the cross-entropy of each against the rest, (N, C, H, W) twice to (N, H, W)."""
    # log(1 - p), kept finite where p rounds to 1.
    log_rest = torch.log1p(-log_p.exp().clamp(max=1 - torch.finfo(log_p.dtype).eps))
    return -torch.where(truth > 0, log_p, log_rest).mean(1)
