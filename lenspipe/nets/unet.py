"""The segmentation network: a segmentation-models-pytorch U-Net that keeps full resolution and takes any image size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lenspipe.nets import compat  # noqa: F401  (before segmentation_models_pytorch)
from lenspipe.nets.config import UNetConfig
from lenspipe.nets.normalise import Asinh
from lenspipe.types import CLASSES


class UNet(nn.Module):
    """Class logits on the input's own pixels.

    Parameters
    ----------
    config : architecture.
    n_bands : channels of the input.
    """

    def __init__(self, config: UNetConfig, n_bands: int):
        super().__init__()
        import segmentation_models_pytorch as smp

        self.config = config
        self.normalise = Asinh()
        self.net = smp.Unet(
            encoder_name=config.encoder,
            encoder_depth=config.depth,
            encoder_weights=None,
            decoder_channels=config.decoder_channels,
            in_channels=n_bands,
            classes=len(CLASSES),
            **config.encoder_options,
        )
        if config.full_resolution:
            _first_convolution(self.net.encoder).stride = (1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, B, H, W) in physical units to (N, C, H, W) logits, classes ordered as `lenspipe.types.CLASSES`."""
        height, width = image.shape[-2:]
        with torch.autocast(image.device.type, enabled=False):
            x = self.normalise(image)
        if self.config.upsample > 1:
            x = F.interpolate(x, scale_factor=self.config.upsample, mode="bilinear", align_corners=False)
        up_height, up_width = x.shape[-2:]
        x = _pad(x, 2**self.config.depth)
        logits: Tensor = self.net(x.contiguous(memory_format=torch.channels_last)).float()
        logits = logits[..., :up_height, :up_width]
        if self.config.upsample > 1:
            logits = F.interpolate(logits, size=(height, width), mode="area")
        return logits


def probabilities(logits: Tensor) -> Tensor:
    """The one activation of loss, metric and inference: softmax over the classes."""
    return logits.softmax(1)


def _pad(x: Tensor, multiple: int) -> Tensor:
    """Grow at the bottom and the right to a multiple, by reflection; by replication where an image is too small."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    small = bottom >= x.shape[-2] or right >= x.shape[-1]
    return F.pad(x, (0, right, 0, bottom), mode="replicate" if small else "reflect")


def _first_convolution(encoder: nn.Module) -> nn.Conv2d:
    convolution = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    if convolution.stride != (2, 2):
        raise ValueError(f"the first convolution of this encoder has the stride {convolution.stride}, not 2.")
    return convolution
