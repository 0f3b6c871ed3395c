"""A small U-Net that works at the image's own resolution (Ronneberger, Fischer & Brox 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lenspipe.nets.base import Segmenter, convolution, enlarge
from lenspipe.nets.config import UNetConfig
from lenspipe.types import CLASSES


class UNet(Segmenter):
    """Two convolutions a level, and skips at every resolution, the full one among them."""

    def __init__(self, config: UNetConfig, n_bands: int):
        super().__init__(config, 2 ** (len(config.channels) - 1))
        widths = config.channels
        inputs = (n_bands, *widths[:-1])
        self.down = nn.ModuleList(_pair(a, b) for a, b in zip(inputs, widths))
        self.up = nn.ModuleList(_pair(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.head = nn.Conv2d(widths[0], len(CLASSES), 1)

    def logits(self, x: Tensor) -> Tensor:
        maps = self._encode(x)
        x = maps.pop()
        for block in self.up:
            skip = maps.pop()
            x = block(torch.cat([enlarge(x, skip), skip], 1))
        result: Tensor = self.head(x)
        return result

    def features(self, x: Tensor) -> Tensor:
        return self._encode(x)[-1]

    def _encode(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(convolution(inputs, outputs), convolution(outputs, outputs))
