"""Networks of segmentation-models-pytorch, with any of its encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lenspipe.errors import LenspipeError
from lenspipe.nets import compat  # noqa: F401  (before segmentation_models_pytorch)
from lenspipe.nets.base import Segmenter
from lenspipe.nets.config import DeepLabV3PlusConfig, SmpUNetConfig
from lenspipe.types import CLASSES

import segmentation_models_pytorch as smp  # isort: skip


class Pretrainable(Segmenter):
    """Around a model of the package."""

    net: Any

    def logits(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result

    def features(self, x: Tensor) -> Tensor:
        deepest: Tensor = self.net.encoder(x)[-1]
        return deepest

    def load_encoder(self, tensors: dict[str, Tensor]) -> None:
        """Start the encoder from weights trained on other images, as those of ImageNet.

        Parameters
        ----------
        tensors : state of this encoder; what belongs to a classifier's head is passed over. First-layer weights for
            another number of bands are repeated over the bands and scaled by their ratio.

        Raises
        ------
        LenspipeError
            They are those of another encoder.
        """
        own = self.net.encoder.state_dict()
        prefix = "model." if all(name.startswith("model.") for name in own) else ""
        chosen = {}
        for name, mine in own.items():
            theirs = tensors.get(name, tensors.get(name.removeprefix(prefix)))
            if theirs is None and name.endswith("num_batches_tracked"):
                theirs = mine
            if theirs is not None and theirs.ndim == mine.ndim == 4 and theirs.shape[1] != mine.shape[1]:
                theirs = _other_bands(theirs, mine.shape[1])
            if theirs is None or theirs.shape != mine.shape:
                raise LenspipeError(
                    f"These are not the weights of the encoder: {name} should be {tuple(mine.shape)}, "
                    f"{'there is none' if theirs is None else f'not {tuple(theirs.shape)}'}."
                )
            chosen[name] = theirs
        self.net.encoder.load_state_dict(chosen)


def _freeze_unused(net: nn.Module, n_bands: int) -> None:
    """Some encoders keep the layers below the depth asked for: they get no gradient, and ranks would wait for it."""
    used = [p for p in net.parameters() if p.requires_grad]
    net.eval()
    with torch.enable_grad():
        gradients = torch.autograd.grad(net(torch.zeros(1, n_bands, 64, 64)).sum(), used, allow_unused=True)
    net.train()
    for parameter, gradient in zip(used, gradients):
        parameter.requires_grad_(gradient is not None)


def _other_bands(weight: Tensor, bands: int) -> Tensor:
    theirs = weight.shape[1]
    return weight[:, [b % theirs for b in range(bands)]] * (theirs / bands)


class SmpUNet(Pretrainable):
    """Class logits on the input's own pixels."""

    def __init__(self, config: SmpUNetConfig, n_bands: int):
        super().__init__(config, 2**config.depth, config.upsample)
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
        _freeze_unused(self.net, n_bands)


class DeepLabV3Plus(Pretrainable):
    """Class logits on the input's own pixels, from an enlarged image."""

    def __init__(self, config: DeepLabV3PlusConfig, n_bands: int):
        super().__init__(config, 32, config.upsample)
        self.net = smp.DeepLabV3Plus(
            encoder_name=config.encoder,
            encoder_weights=None,
            encoder_output_stride=config.output_stride,
            decoder_channels=config.decoder_channels,
            in_channels=n_bands,
            classes=len(CLASSES),
            **config.encoder_options,
        )
        # The pyramid's branch of the whole image has one pixel: over a batch of 1 there is nothing to normalise.
        pyramid = next(m for m in self.net.decoder.modules() if type(m).__name__ == "ASPP")
        pooling = pyramid.convs[-1]
        place = next(i for i, layer in enumerate(pooling) if isinstance(layer, nn.BatchNorm2d))
        pooling[place] = nn.GroupNorm(1, config.decoder_channels)
        _freeze_unused(self.net, n_bands)


def _first_convolution(encoder: nn.Module) -> nn.Conv2d:
    convolution = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    if convolution.stride != (2, 2):
        raise ValueError(f"the first convolution of this encoder has the stride {convolution.stride}, not 2.")
    return convolution
