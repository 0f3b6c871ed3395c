"""``segment``: class probabilities of every pixel, by a trained network or, where there is none, by photutils."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lenspipe.config import Config
from lenspipe.errors import LenspipeError
from lenspipe.products import MASKS, SHARD, SHARDS, WEIGHTS
from lenspipe.stage import Inputs, Outputs, Resources, Stage, for_each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lenspipe.io import weights
    from lenspipe.io.shards import Shard
    from lenspipe.nets.base import Segmenter
    from lenspipe.nets.familiarity import Familiarity

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
    from lenspipe.io.masks import read_answers, write_masks
    from lenspipe.io.shards import Shard

    folder = config.weights or inputs.get(WEIGHTS.name)

    def segment(key: str) -> None:
        with Shard(inputs[SHARD.name][key]) as shard:
            if folder is None:
                probability, familiarity, origin = _classical(shard), None, "photutils"
            else:
                probability, familiarity, origin = _network(shard, folder, config)
            write_masks(outputs[MASKS.name][key], shard.ids, probability, origin, familiarity)
            found = read_answers(outputs[MASKS.name][key]).arc_found.sum()
            log.info("%s: %d cutouts segmented by %s, an arc found in %d", key, len(shard), origin, found)

    return {"failed": for_each(inputs[SHARD.name], segment)}


def _network(
    shard: Shard, folder: Path, config: SegmentConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, str]:
    """Probabilities (N, C, H, W), p-values (N,) or None, name of the weights."""
    import numpy as np
    import torch

    from lenspipe.nets.predict import describe, predict

    net, familiarity, card = load_segmenter(folder, shard, config.survey)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net.to(device)
    divisor = temperature(card, config.flips)
    parts, p_values = [], []
    for start in range(0, len(shard), config.batch_size):
        rows = slice(start, start + config.batch_size)
        image = np.where(shard.file["valid"][rows], shard.file["image"][rows], np.nan)
        tensor = torch.as_tensor(image, dtype=torch.float32, device=device)
        parts.append(predict(net, tensor, config.flips, divisor).numpy())
        if familiarity is not None:
            p_values.append(familiarity.p_value(describe(net, tensor)).float().numpy())
    return np.concatenate(parts), np.concatenate(p_values) if p_values else None, card.name


def temperature(card: weights.Card, flips: bool) -> float:
    """What divides the logits of the network of this card, or with `flips` the logarithms of their average."""
    return card.calibration.get("temperature_flips" if flips else "temperature", 1.0)


def load_segmenter(
    folder: Path, shard: Shard | None = None, survey: str | None = None
) -> tuple[Segmenter, Familiarity | None, weights.Card]:
    """The network in `folder`, ready for the images of `shard`, what it was trained on, and its card.

    Raises
    ------
    LenspipeError
        The weights are not for such images, or not of a network that segments.
    """
    from lenspipe.io import weights
    from lenspipe.nets.build import ARCHITECTURES, rebuild
    from lenspipe.nets.familiarity import split
    from lenspipe.types import CLASSES

    card = weights.read_card(folder)
    if card.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise LenspipeError(f"{folder}: weights of the architecture {card.architecture!r} do not segment; {known} do.")
    data = shard or card
    tensors, card = weights.load(folder, card.architecture, data.bands, data.pixel_scale, CLASSES, survey)
    own, familiarity = split(tensors)
    net = rebuild(card.options, len(card.bands), f"{folder}/card.json")
    try:
        net.load_state_dict(own)
    except RuntimeError as error:
        raise LenspipeError(f"{folder}: the weights are not those of the network on the card ({error}).") from None
    return net.eval(), familiarity, card


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
    version=2,
    resources=Resources(gpus=1, memory_gb=3.0, minutes=60.0),
    summary="Segment cutouts: probabilities per pixel of source, lens, noise (other objects), background.",
)
