"""What all segmentation networks share: physical units in, logits on the same pixels out."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lenspipe.nets.config import NetConfig
from lenspipe.nets.losses import Loss
from lenspipe.nets.normalise import scaling


class Segmenter(nn.Module):
    """Normalises, grows the image to what the network can halve, and cuts the logits back.

    A subclass builds its layers and says `logits` and `features`.

    Parameters
    ----------
    config : of the architecture.
    multiple : image sides are grown to multiples of this.
    upsample : factor by which the image is enlarged before.
    """

    def __init__(self, config: NetConfig, multiple: int, upsample: int = 1):
        super().__init__()
        self.normalise = scaling(config.scaling)
        self.multiple, self.upsample = multiple, upsample

    def forward(self, image: Tensor) -> Tensor:
        """(N, B, H, W) in physical units to (N, C, H, W) logits, classes ordered as `lenspipe.types.CLASSES`."""
        return self.fit_back(self.logits(self.prepare(image)), image.shape[-2:])

    def supervise(self, image: Tensor, label: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """What `forward` returns, and (K,) sums over the pixels of the batch, of which `total_loss` is a function.

        Networks with more outputs than one supervise all of them here.
        """
        logits: Tensor = self(image)
        return logits, loss.sums(logits, label)

    def total_loss(self, sums: Tensor, loss: Loss) -> Tensor:
        """What training minimises, a scalar, of the (K,) `sums` over all batches of a step."""
        return loss.of(sums)

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """(N, B, H', W') normalised to (N, C, H', W')."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """(N, B, H', W') normalised to (N, F, h, w), the deepest feature maps."""

    def describe(self, image: Tensor) -> Tensor:
        """(N, B, H, W) in physical units to (N, F): means of the deepest feature maps."""
        return self.features(self.prepare(image)).float().mean((-1, -2))

    def prepare(self, image: Tensor) -> Tensor:
        """(N, B, H, W) in physical units to the normalised, enlarged and grown input of the layers."""
        with torch.autocast(image.device.type, enabled=False):
            x: Tensor = self.normalise(image)
        if self.upsample > 1:
            x = F.interpolate(x, scale_factor=self.upsample, mode="bilinear", align_corners=False)
        return grow(x, self.multiple).contiguous(memory_format=torch.channels_last)

    def fit_back(self, x: Tensor, size: torch.Size) -> Tensor:
        """Maps over the prepared image to maps (f4) over the image of `size` (H, W)."""
        height, width = size
        x = x.float()[..., : height * self.upsample, : width * self.upsample]
        return F.interpolate(x, size=(height, width), mode="area") if self.upsample > 1 else x


def probabilities(logits: Tensor) -> Tensor:
    """The one activation of loss, metric and inference: softmax over the classes."""
    return logits.softmax(1)


def grow(x: Tensor, multiple: int) -> Tensor:
    """Grow at the bottom and the right to a multiple, by reflection; by replication where an image is too small."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    small = bottom >= x.shape[-2] or right >= x.shape[-1]
    return F.pad(x, (0, right, 0, bottom), mode="replicate" if small else "reflect")


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def convolution(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3 x 3 convolution, normalisation of groups of eight channels (Wu & He 2018), ReLU.

    Statistics are of one image alone: a batch of 1 trains, and the number of ranks does not matter.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False),
        nn.GroupNorm(max(outputs // 8, 1), outputs),
        nn.ReLU(inplace=True),
    )
