"""What a trained network learns about itself from the validation objects before it is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lenspipe.nets.base import Segmenter
from lenspipe.nets.calibration import fit_temperature
from lenspipe.nets.familiarity import Familiarity
from lenspipe.nets.predict import describe, predict

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images (N, B, H, W) in physical units and labels (N, H, W); can be gone through more than once."""


@dataclass(frozen=True)
class Honesty:
    """Temperatures of single predictions and of those averaged over flips; what the training images were like."""

    temperature: float
    temperature_flips: float
    familiarity: Familiarity

    def figures(self) -> dict[str, float]:
        """The temperatures, for the card of the weights."""
        return {"temperature": self.temperature, "temperature_flips": self.temperature_flips}


def assess(net: Segmenter, training: Batches, validation: Batches) -> Honesty:
    """`Honesty` of `net`, which is in evaluation mode afterwards."""
    net.eval()
    device = next(net.parameters()).device

    def features(batches: Batches) -> Tensor:
        return torch.cat([describe(net, image.to(device)) for image, _ in batches])

    def temperature(flips: bool) -> float:
        return fit_temperature((predict(net, image.to(device), flips), label.cpu()) for image, label in validation)

    familiarity = Familiarity.fit(features(training), features(validation))
    return Honesty(temperature(False), temperature(True), familiarity)
