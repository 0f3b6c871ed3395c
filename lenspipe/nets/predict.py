"""Inference: softmax probabilities, on request averaged over the eight symmetries of a square."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lenspipe.nets.unet import probabilities


@torch.inference_mode()
def predict(net: nn.Module, image: Tensor, flips: bool) -> Tensor:
    """(N, B, H, W) in physical units to (N, C, H, W) probabilities, on the CPU.

    Parameters
    ----------
    flips : average over the eight flips and right-angle turns.
    """
    total = probabilities(net(image))
    if not flips:
        return total.cpu()
    for transpose in (False, True):
        for axes in ([], [-1], [-2], [-1, -2]):
            if not axes and not transpose:
                continue
            turned = (image.transpose(-1, -2) if transpose else image).flip(axes)
            back = probabilities(net(turned)).flip(axes)
            total += back.transpose(-1, -2) if transpose else back
    return (total / 8).cpu()
