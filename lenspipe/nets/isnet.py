"""IS-Net of Qin et al. 2022 ("Highly accurate dichotomous image segmentation", ECCV), with several classes.

Its blocks are the residual U-blocks of Qin et al. 2020 (U2-Net, section 3.1 and fig. 2e): a small U-Net inside each
stage, its output added to the stage's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lenspipe.nets.base import Segmenter, convolution, enlarge
from lenspipe.nets.config import ISNetConfig
from lenspipe.nets.losses import Loss
from lenspipe.types import CLASSES

_DEPTHS = (7, 6, 5, 4)
"""Levels of the U-blocks of the first stages; the last two stages (None below) dilate and do not halve."""
_INSIDE = (1, 1, 2, 4, 8, 8)
_OUTPUTS = (2, 4, 8, 16, 16, 16)
"""Channels inside and after each stage of the encoder, in halves of the width."""


class ISNet(Segmenter):
    """Class logits from a stage's decoder map each: the finest is the answer, all six are supervised.

    Intermediate supervision: an encoder of the true masks has feature maps of the same shapes, and while training the
    network's are drawn to them (eq. 5). The paper trains that encoder first and then freezes it; here both train
    side by side, the masks' encoder by its own six side outputs (eq. 2) and not by the network's, so that one run
    with one loss does it all and can be resumed anywhere.
    """

    def __init__(self, config: ISNetConfig, n_bands: int):
        super().__init__(config, 1)
        half = config.width // 2
        outputs = [half * n for n in _OUTPUTS]
        self.stem = convolution(n_bands, config.width, stride=config.stem_stride)
        self.encoder = _stages([config.width, *outputs[:-1]], [half * n for n in _INSIDE], outputs)
        # A decoder stage sees its own scale and the one below; its output is as wide as the encoder's stage above.
        decoded = [outputs[0], *outputs[:4]]
        inside = [max(half // 2, 8), half, config.width, 2 * config.width, 4 * config.width]
        below = [*decoded[1:], outputs[5]]
        self.decoder = _stages([a + b for a, b in zip(outputs, below)], inside, decoded)
        channels = [*decoded, outputs[5]]
        self.side = nn.ModuleList(nn.Conv2d(n, len(CLASSES), 3, padding=1) for n in channels)
        self.truth_encoder = TruthEncoder(config, channels) if config.intermediate else None

    def logits(self, x: Tensor) -> Tensor:
        return enlarge(self.side[0](self._decode(x)[0]), x)

    def features(self, x: Tensor) -> Tensor:
        return self._encode(x)[-1]

    def supervise(self, image: Tensor, label: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The sums are those of each side output; with intermediate supervision also of each of the masks' encoder,
        and of the squared differences of the features, summed and counted."""
        x = self.prepare(image)
        maps = self._decode(x)
        outputs = [enlarge(side(m), x).float() for side, m in zip(self.side, maps)]
        found = [loss.sums(output, label) for output in outputs]
        if self.truth_encoder is not None:
            truth = F.one_hot(label, len(CLASSES)).movedim(-1, 1).to(x.dtype)
            theirs, sides = self.truth_encoder(truth)
            found += [loss.sums(side, label) for side in sides]
            found += [_squares(m.float() - t.detach().float()) for m, t in zip(maps, theirs)]
        return outputs[0], torch.cat(found)

    def total_loss(self, sums: Tensor, loss: Loss) -> Tensor:
        """Sum over the side outputs, and the mean squared differences of the features (eqs. 3 and 5, weights of 1)."""
        features = 2 * len(self.side) if self.truth_encoder is not None else 0
        outputs, squares = sums[: len(sums) - features], sums[len(sums) - features :].reshape(-1, 2)
        return torch.stack([loss.of(s) for s in outputs.split(loss.size)]).sum() + (squares[:, 0] / squares[:, 1]).sum()

    def _encode(self, x: Tensor) -> list[Tensor]:
        return _run(self.encoder, self.stem(x))

    def _decode(self, x: Tensor) -> list[Tensor]:
        """Six maps from fine to coarse; the coarsest is the encoder's own."""
        encoded = self._encode(x)
        maps = [encoded[-1]]
        for stage, skip in zip(reversed(self.decoder), encoded[-2::-1]):
            maps.insert(0, stage(torch.cat([enlarge(maps[0], skip), skip], 1)))
        return maps


class TruthEncoder(nn.Module):
    """From one-hot masks to six feature maps shaped like those of the decoder, and logits of the masks from each."""

    def __init__(self, config: ISNetConfig, channels: Sequence[int]):
        super().__init__()
        width = config.width
        self.stem = convolution(len(CLASSES), width, stride=config.stem_stride)
        inside = [max(width // 4, 8)] * 2 + [width // 2] * 2 + [width] * 2
        self.stages = _stages([width, *channels[:-1]], inside, channels)
        self.side = nn.ModuleList(nn.Conv2d(n, len(CLASSES), 3, padding=1) for n in channels)

    def forward(self, truth: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        maps = _run(self.stages, self.stem(truth))
        return maps, [enlarge(side(m), truth) for side, m in zip(self.side, maps)]


class UBlock(nn.Module):
    """A U-Net of `depth` levels inside a residual connection; None: four levels that dilate by 1, 2, 4, 8 instead."""

    def __init__(self, depth: int | None, inputs: int, inside: int, outputs: int):
        super().__init__()
        self.halves = depth is not None
        levels = depth - 1 if depth is not None else 3
        rates = [1] * levels if self.halves else [2**i for i in range(levels)]
        self.first = convolution(inputs, outputs)
        self.down = nn.ModuleList(
            convolution(outputs if i == 0 else inside, inside, dilation=r) for i, r in enumerate(rates)
        )
        self.bottom = convolution(inside, inside, dilation=2 if self.halves else 2**levels)
        self.up = nn.ModuleList(
            convolution(2 * inside, outputs if i == 0 else inside, dilation=r) for i, r in enumerate(rates)
        )

    def forward(self, x: Tensor) -> Tensor:
        whole = x = self.first(x)
        maps: list[Tensor] = []
        for i, layer in enumerate(self.down):
            x = layer(_halve(x) if self.halves and i else x)
            maps.append(x)
        x = self.bottom(x)
        for layer, skip in zip(reversed(self.up), reversed(maps)):
            x = layer(torch.cat([enlarge(x, skip), skip], 1))
        return x + whole


def _stages(inputs: Sequence[int], inside: Sequence[int], outputs: Sequence[int]) -> nn.ModuleList:
    depths = [*_DEPTHS, None, None]
    return nn.ModuleList(UBlock(*stage) for stage in zip(depths, inputs, inside, outputs))


def _run(stages: nn.ModuleList, x: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    for stage in stages:
        x = stage(_halve(x) if maps else x)
        maps.append(x)
    return maps


def _halve(x: Tensor) -> Tensor:
    """By maxima, odd sides rounded up: nothing needs padding, and a single pixel stays one."""
    return F.max_pool2d(x, 2, ceil_mode=True)


def _squares(x: Tensor) -> Tensor:
    """(2,): sum of squares, and of how many."""
    return torch.stack([x.square().sum(), x.new_tensor(float(x.numel()))])
