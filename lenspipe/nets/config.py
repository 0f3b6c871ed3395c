"""Architectures and losses as options; apart from the networks, so that reading a workflow does not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lenspipe.config import Config

Scaling = Literal["asinh", "minmax", "tenfold"]


class NetConfig(Config):
    """What every architecture may be told; it travels in the card of the weights."""

    scaling: Scaling = Field(
        "asinh",
        description="inside the network: asinh((x - sky) / rms); minmax: 0 to 1 over all bands; tenfold: 0 to 1 in "
        "each band, what lies between the 95th and 99th percentile brightened tenfold",
    )

    def at_inference(self) -> NetConfig:
        """Without what serves training alone."""
        return self


class UNetConfig(NetConfig):
    """A small U-Net at the image's own resolution, without further packages."""

    name: Literal["unet"] = "unet"
    channels: tuple[int, ...] = Field(
        (24, 32, 48, 64), min_length=2, description="of each level, from full resolution down; multiples of 8"
    )

    @model_validator(mode="after")
    def _multiples(self) -> UNetConfig:
        if any(n < 8 or n % 8 for n in self.channels):
            raise ValueError("channels must be multiples of 8, the size of a normalisation group")
        return self


class SmpUNetConfig(NetConfig):
    """The U-Net of segmentation-models-pytorch with any of its encoders; by default a narrow ResNet."""

    name: Literal["smp_unet"] = "smp_unet"
    encoder: str = Field("tu-resnet18", description="of segmentation-models-pytorch (``tu-`` names one of timm's)")
    encoder_options: dict[str, Any] = Field(
        {"layers": [1, 1, 1, 1], "channels": [24, 32, 48, 96], "stem_type": "deep", "stem_width": 8},
        description="passed to timm for ``tu-`` encoders; the default makes a narrow residual network",
    )
    depth: int = Field(4, ge=1, le=5, description="levels, each of half the resolution of the one above")
    decoder_channels: tuple[int, ...] = Field((48, 32, 24, 16), description="one per level")
    full_resolution: bool = Field(
        True,
        description="the encoder's first convolution keeps its stride 1, so that there is a skip at full resolution",
    )
    upsample: int = Field(1, ge=1, le=4, description="work on an image enlarged by this factor")

    @model_validator(mode="after")
    def _levels(self) -> SmpUNetConfig:
        if len(self.decoder_channels) != self.depth:
            raise ValueError(f"decoder_channels must have one number for each of the {self.depth} levels")
        return self


class DeepLabV3PlusConfig(NetConfig):
    """DeepLabV3+ of segmentation-models-pytorch (Chen et al. 2018) with any of its encoders."""

    name: Literal["deeplabv3plus"] = "deeplabv3plus"
    encoder: str = Field("resnet18", description="of segmentation-models-pytorch")
    encoder_options: dict[str, Any] = Field({}, description="passed to timm for ``tu-`` encoders")
    decoder_channels: int = Field(128, ge=8, description="of the pyramid and the decoder")
    output_stride: Literal[8, 16] = Field(16, description="of the encoder")
    upsample: int = Field(2, ge=1, le=4, description="work on an image enlarged by this factor; its skip is at 1/4")


class ISNetConfig(NetConfig):
    """IS-Net (Qin et al. 2022): nested U-blocks in six stages, side outputs, intermediate supervision."""

    name: Literal["isnet"] = "isnet"
    width: int = Field(64, ge=16, multiple_of=16, description="channels of the first stage; 64 in the paper")
    stem_stride: Literal[1, 2] = Field(2, description="of the first convolution; 1 keeps small images whole")
    intermediate: bool = Field(
        True, description="draw the stages' features to those of an encoder of the true masks while training"
    )

    def at_inference(self) -> ISNetConfig:
        return self.model_copy(update={"intermediate": False})


class MSRFNetConfig(NetConfig):
    """MSRF-Net (Srivastava et al. 2022): four scales that exchange features, and a stream for edges."""

    name: Literal["msrfnet"] = "msrfnet"
    channels: tuple[int, int, int, int] = Field((32, 64, 128, 256), description="of the scales; multiples of 8")
    growth: tuple[int, int, int] = Field((16, 32, 64), description="of the fusion between neighbouring scales")

    @model_validator(mode="after")
    def _multiples(self) -> MSRFNetConfig:
        if any(n < 8 or n % 8 for n in (*self.channels, *self.growth)):
            raise ValueError("channels and growth must be multiples of 8, the size of a normalisation group")
        return self


def _named(options: Any) -> Any:
    """Options of before there was a choice have no name: they are those of `SmpUNetConfig`."""
    return {"name": "smp_unet", **options} if isinstance(options, dict) else options


AnyNet = Annotated[
    Annotated[
        UNetConfig | SmpUNetConfig | DeepLabV3PlusConfig | ISNetConfig | MSRFNetConfig, Field(discriminator="name")
    ],
    BeforeValidator(_named),
]
"""The options of a network, told apart by `name`."""


class AnyNetConfig(Config):
    """The options of one network under the key ``net``, as a card holds them."""

    net: AnyNet


class EstimatorConfig(NetConfig):
    """An EfficientNet of timm (Tan & Le 2019; 2021) with a Gaussian of the deflector's parameters as its answer."""

    name: str = Field(
        "efficientnet_b0",
        pattern="^(tf_)?efficientnet",
        description="of timm: efficientnet_b0, tf_efficientnetv2_b0, ...",
    )
    stem_stride: Literal[1, 2] = Field(
        2, description="of the first convolution; 1 sees more and takes four times as long"
    )
    drop_rate: float = Field(0.2, ge=0, lt=1, description="features left out at random while training")
    masks: bool | None = Field(
        None,
        description="see the probabilities of the segmentation classes too; null: if a network that segments is there",
    )
    window: int | None = Field(
        None, ge=8, description="pixels; a square so large in the middle is looked at; null: as large as the images"
    )

    def at_inference(self) -> EstimatorConfig:
        return self.model_copy(update={"drop_rate": 0.0})


class LossConfig(Config):
    """A sum of losses on the softmax probabilities, each with its weight."""

    cross_entropy: float = Field(1.0, ge=0, description="calibrates")
    dice: float = Field(1.0, ge=0, description="1 - Dice, which does not care how rare a class is")
    jaccard: float = Field(0.0, ge=0, description="1 - intersection over union")
    focal: float = Field(0.0, ge=0, description="cross-entropy that passes over what is easy")
    binary_cross_entropy: float = Field(0.0, ge=0, description="of each class against the rest")
    focal_gamma: float = Field(2.0, ge=0, description="of `focal`; 0 makes it the cross-entropy")

    @model_validator(mode="after")
    def _some(self) -> LossConfig:
        if not any((self.cross_entropy, self.dice, self.jaccard, self.focal, self.binary_cross_entropy)):
            raise ValueError("at least one loss must have a weight above 0")
        return self
