"""Inference: softmax probabilities, on request averaged over the eight symmetries of a square."""

from __future__ import annotations

import torch
from torch import Tensor

from lenspipe.nets.base import Segmenter, probabilities


@torch.inference_mode()
def predict(net: Segmenter, image: Tensor, flips: bool, temperature: float = 1.0) -> Tensor:
    """(N, B, H, W) in physical units to (N, C, H, W) probabilities, on the CPU.

    Parameters
    ----------
    flips : average over the eight flips and right-angle turns.
    temperature : divides the logits, or with `flips` the logarithms of the average (`lenspipe.nets.calibration`).
    """
    total = probabilities(net(image))
    if flips:
        for transpose in (False, True):
            for axes in ([], [-1], [-2], [-1, -2]):
                if not axes and not transpose:
                    continue
                turned = (image.transpose(-1, -2) if transpose else image).flip(axes)
                back = probabilities(net(turned)).flip(axes)
                total += back.transpose(-1, -2) if transpose else back
        total /= 8
    if temperature != 1:
        total = probabilities(total.clamp(min=torch.finfo(total.dtype).tiny).log() / temperature)
    return total.cpu()


@torch.inference_mode()
def describe(net: Segmenter, image: Tensor) -> Tensor:
    """(N, B, H, W) in physical units to (N, F) f4, what `lenspipe.nets.familiarity` compares, on the CPU."""
    return net.describe(image).cpu()
