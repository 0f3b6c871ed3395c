"""From options to a network."""

from __future__ import annotations

from typing import Any

from lenspipe.config import parse
from lenspipe.nets import config as c
from lenspipe.nets.base import Segmenter

ARCHITECTURES = ("UNet", "SmpUNet", "DeepLabV3Plus", "ISNet", "MSRFNet")
"""Classes of the networks, as they stand on the cards of weights."""


def build(config: c.NetConfig, n_bands: int) -> Segmenter:
    """The untrained network of these options for images of `n_bands`."""
    match config:
        case c.UNetConfig():
            from lenspipe.nets.unet import UNet

            return UNet(config, n_bands)
        case c.SmpUNetConfig():
            from lenspipe.nets.smp import SmpUNet

            return SmpUNet(config, n_bands)
        case c.DeepLabV3PlusConfig():
            from lenspipe.nets.smp import DeepLabV3Plus

            return DeepLabV3Plus(config, n_bands)
        case c.ISNetConfig():
            from lenspipe.nets.isnet import ISNet

            return ISNet(config, n_bands)
        case c.MSRFNetConfig():
            from lenspipe.nets.msrfnet import MSRFNet

            return MSRFNet(config, n_bands)
    raise TypeError(f"no network for {type(config).__name__}")


def rebuild(options: dict[str, Any], n_bands: int, where: str) -> Segmenter:
    """The network of a card's options, for inference; `where` names the card in the `LenspipeError` that a wrong one
    raises."""
    return build(parse(c.AnyNetConfig, {"net": options}, where).net.at_inference(), n_bands)
