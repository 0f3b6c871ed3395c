"""Architectures as options; apart from the networks, so that reading a workflow does not import torch."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from lenspipe.config import Config


class UNetConfig(Config):
    """The architecture; it travels in the card of the weights."""

    encoder: str = Field(
        "tu-resnet18",
        description="encoder of segmentation-models-pytorch (``tu-`` names one of timm's); never pretrained",
    )
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
    def _levels(self) -> UNetConfig:
        if len(self.decoder_channels) != self.depth:
            raise ValueError(f"decoder_channels must have one number for each of the {self.depth} levels")
        return self
