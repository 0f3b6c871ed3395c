"""MSRF-Net of Srivastava et al. 2022 (IEEE J. Biomed. Health Inform. 26, 2252), with several classes.

Four scales of an encoder exchange features in dense blocks that each join two neighbouring scales (section III-B); a
stream at full resolution, gated by the scales, finds the edges (III-C); a decoder with attention to places and
channels (III-D) reads both. The paper gives the shape stream the image's Canny edges; here it is the gradient of the
normalised image (Sobel), which needs no threshold in flux.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lenspipe.nets.base import Segmenter, convolution, enlarge
from lenspipe.nets.config import MSRFNetConfig
from lenspipe.nets.losses import Loss
from lenspipe.types import CLASSES

_RESIDUAL = 0.4
"""Weight of what a residual block adds (section III-B)."""
_DENSE = 5
_WEIGHTS = (2.0, 1.0, 1.0)
"""Of the answer and of the two coarser outputs in the loss; the edges weigh 1."""


class MSRFNet(Segmenter):
    """Class logits at full resolution; two coarser outputs and the edges are supervised as well."""

    def __init__(self, config: MSRFNetConfig, n_bands: int):
        super().__init__(config, 8)
        widths = config.channels
        self.encoder = nn.ModuleList(_Level(a, b) for a, b in zip((n_bands, *widths[:-1]), widths))
        # Pairs of scales, in the order in which they exchange: outer, inner, outer, inner, outer.
        self.order = [0, 2, 1, 0, 2, 1, 0, 2]
        self.fusion = nn.ModuleList(DualScaleFusion(widths[i], widths[i + 1], config.growth[i]) for i in self.order)
        self.shape = ShapeStream(widths)
        inputs = [widths[0] + self.shape.channels, widths[1], widths[2]]
        self.decoder = nn.ModuleList(_Decode(a, b, c) for a, b, c in zip(inputs, widths[1:], widths))
        self.head = nn.ModuleList(nn.Conv2d(n, len(CLASSES), 1) for n in widths[:3])

    def logits(self, x: Tensor) -> Tensor:
        answer, *_ = self._outputs(x)
        return answer

    def features(self, x: Tensor) -> Tensor:
        return self._scales(x)[-1]

    def supervise(self, image: Tensor, label: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The sums are those of the three outputs; the summed binary cross-entropy of the edges and its pixels."""
        size = image.shape[-2:]
        *outputs, edge = (self.fit_back(o, size) for o in self._outputs(self.prepare(image)))
        entropy = F.binary_cross_entropy_with_logits(edge[:, 0], edges(label), reduction="sum")
        of_edges = torch.stack([entropy, entropy.new_tensor(float(label.numel()))])
        return outputs[0], torch.cat([*(loss.sums(output, label) for output in outputs), of_edges])

    def total_loss(self, sums: Tensor, loss: Loss) -> Tensor:
        """Weighted sum over the outputs, plus the mean binary cross-entropy of the edges."""
        outputs = torch.stack([w * loss.of(s) for w, s in zip(_WEIGHTS, sums[:-2].split(loss.size))])
        return outputs.sum() + sums[-2] / sums[-1]

    def _scales(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for level in self.encoder:
            x = level(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        fused = list(maps)
        for i, block in zip(self.order, self.fusion):
            fused[i], fused[i + 1] = block(fused[i], fused[i + 1])
        return [m + _RESIDUAL * f for m, f in zip(maps, fused)]

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """Logits from fine to coarse, all at full resolution, and logits of the edges."""
        maps = self._scales(x)
        stream, edge = self.shape(x, maps)
        skips = [torch.cat([maps[0], stream], 1), maps[1], maps[2]]
        below = maps[3]
        outputs: list[Tensor] = []
        for decode, head, skip in zip(reversed(self.decoder), reversed(self.head), reversed(skips)):
            below = decode(skip, below)
            outputs.insert(0, enlarge(head(below), x))
        return [*outputs, edge]


class DualScaleFusion(nn.Module):
    """Two scales, each a densely connected residual block that in every layer also reads the other (eqs. 1 to 3)."""

    def __init__(self, high: int, low: int, growth: int):
        super().__init__()
        # Layer i reads its own scale's input and i earlier layers, and after the first also the other's last one.
        read = [(i + (i > 0)) * growth for i in range(_DENSE)]
        self.high = nn.ModuleList(convolution(high + n, growth) for n in read[:-1])
        self.low = nn.ModuleList(convolution(low + n, growth) for n in read[:-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(growth, growth, 2, 2) for _ in read[:-1])
        self.down = nn.ModuleList(nn.Conv2d(growth, growth, 3, 2, 1) for _ in read[:-1])
        self.to_high = nn.Conv2d(high + read[-1], high, 3, padding=1)
        self.to_low = nn.Conv2d(low + read[-1], low, 3, padding=1)

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        highs, lows = [high], [low]
        from_low: list[Tensor] = []
        from_high: list[Tensor] = []
        for to_high, to_low, up, down in zip(self.high, self.low, self.up, self.down):
            new_high, new_low = to_high(torch.cat([*highs, *from_low], 1)), to_low(torch.cat([*lows, *from_high], 1))
            highs, lows = [*highs, new_high], [*lows, new_low]
            from_low, from_high = [up(new_low)], [down(new_high)]
        out_high = self.to_high(torch.cat([*highs, *from_low], 1))
        out_low = self.to_low(torch.cat([*lows, *from_high], 1))
        return high + _RESIDUAL * out_high, low + _RESIDUAL * out_low


class ShapeStream(nn.Module):
    """Edges at full resolution: what a scale does not call an edge is taken out of the stream (eqs. 4 and 5)."""

    channels = 16

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        n = self.channels
        self.first = nn.Conv2d(widths[0], n, 1)
        self.gate = nn.ModuleList(nn.Conv2d(n + width, 1, 1) for width in widths[1:])
        self.block = nn.ModuleList(nn.Sequential(convolution(n, n), nn.Conv2d(n, n, 3, padding=1)) for _ in widths[1:])
        self.edge = nn.Conv2d(n, 1, 1)
        self.last = convolution(n + 2, n)

    def forward(self, x: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        stream = self.first(maps[0])
        for gate, block, scale in zip(self.gate, self.block, maps[1:]):
            gated = stream * gate(torch.cat([stream, enlarge(scale, stream)], 1)).sigmoid()
            stream = gated + block(gated)
        edge = self.edge(stream)
        return self.last(torch.cat([stream, edge.sigmoid(), gradient(x)], 1)), edge


class _Level(nn.Module):
    """Two convolutions and attention to channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            convolution(inputs, outputs), convolution(outputs, outputs), SqueezeExcitation(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


class _Decode(nn.Module):
    """The scale below opens the skip where it matters (Oktay et al. 2018); then attention to channels and places."""

    def __init__(self, skip: int, below: int, outputs: int):
        super().__init__()
        self.gate = nn.Conv2d(skip + below, 1, 1)
        self.mix = convolution(skip + below, outputs)
        self.channels = SqueezeExcitation(outputs)
        self.places = nn.Conv2d(outputs, 1, 1)
        self.refine = convolution(outputs, outputs)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        below = enlarge(below, skip)
        opened = skip * self.gate(torch.cat([skip, below], 1)).sigmoid()
        x = self.mix(torch.cat([opened, below], 1))
        result: Tensor = x + self.refine(self.channels(x) * (1 + self.places(x).sigmoid()))
        return result


class SqueezeExcitation(nn.Module):
    """Channels weighed by what the whole image holds (Hu, Shen & Sun 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        few = max(channels // 8, 4)
        self.layers = nn.Sequential(nn.Conv2d(channels, few, 1), nn.ReLU(), nn.Conv2d(few, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x * self.layers(x.mean((-1, -2), keepdim=True))
        return result


def edges(label: Tensor) -> Tensor:
    """(N, H, W) class indices to f4: 1 where a pixel touches another class, also by a corner."""
    value = F.pad(label[:, None].float(), (1, 1, 1, 1), mode="replicate")
    return (F.max_pool2d(value, 3, 1) != -F.max_pool2d(-value, 3, 1)).float()[:, 0]


def gradient(x: Tensor) -> Tensor:
    """(N, B, H, W) to (N, 1, H, W): size of the gradient of the bands' mean, by Sobel's kernels."""
    smooth, slope = x.new_tensor([1, 2, 1]) / 4, x.new_tensor([-1, 0, 1]) / 2
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    mean = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(mean, kernels).norm(dim=1, keepdim=True)
