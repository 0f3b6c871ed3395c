"""``segment``: class probabilities of every pixel, by a trained network or, where there is none, by photutils."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lenspipe.config import Config, parse
from lenspipe.products import MASKS, SHARD, SHARDS, WEIGHTS
from lenspipe.stage import Inputs, Outputs, Resources, Stage, for_each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lenspipe.io.shards import Shard

log = logging.getLogger(__name__)


class SegmentConfig(Config):
    """Options of ``segment``."""

    weights: Path | None = Field(
        None, description="folder of trained weights; null: those that the workflow trains, or photutils without any"
    )
    survey: str | None = Field(None, description="weights of another survey are refused; null: any")
    flips: bool = Field(True, description="average over the eight flips and right-angle turns")
    batch_size: int = Field(64, ge=1, description="cutouts at once")


def run(config: SegmentConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.io.masks import write_masks
    from lenspipe.io.shards import Shard

    folder = config.weights or inputs.get(WEIGHTS.name)

    def segment(key: str) -> None:
        with Shard(inputs[SHARD.name][key]) as shard:
            if folder is None:
                probability, origin = _classical(shard), "photutils"
            else:
                probability, origin = _network(shard, folder, config)
            write_masks(outputs[MASKS.name][key], shard.ids, probability, origin)
            log.info("%s: %d cutouts segmented by %s", key, len(shard), origin)

    return {"failed": for_each(inputs[SHARD.name], segment)}


def _network(shard: Shard, folder: Path, config: SegmentConfig) -> tuple[NDArray[np.float32], str]:
    import numpy as np
    import torch

    from lenspipe.io import weights
    from lenspipe.nets.config import UNetConfig
    from lenspipe.nets.predict import predict
    from lenspipe.nets.unet import UNet
    from lenspipe.types import CLASSES

    tensors, card = weights.load(folder, UNet.__name__, shard.bands, shard.pixel_scale, CLASSES, config.survey)
    net = UNet(parse(UNetConfig, card.options, f"{folder}/card.json"), len(card.bands))
    net.load_state_dict(tensors)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net.eval().to(device)
    parts = []
    for start in range(0, len(shard), config.batch_size):
        rows = slice(start, start + config.batch_size)
        image = np.where(shard.file["valid"][rows], shard.file["image"][rows], np.nan)
        parts.append(predict(net, torch.as_tensor(image, dtype=torch.float32, device=device), config.flips).numpy())
    return np.concatenate(parts), card.name


def _classical(shard: Shard) -> NDArray[np.float32]:
    import numpy as np

    from lenspipe.nets.classical import segment

    return np.stack([segment(shard.cutout(row)) for row in range(len(shard))])


STAGE = Stage(
    name="segment",
    inputs=(SHARD,),
    outputs=(MASKS,),
    optional=(WEIGHTS,),
    outside=lambda config: [config.weights] if config.weights else [],
    config=SegmentConfig,
    run=run,
    over=SHARDS,
    resources=Resources(gpus=1, memory_gb=3.0, minutes=60.0),
    summary="Segment cutouts: probabilities per pixel of source, lens, noise (other objects), background.",
)
