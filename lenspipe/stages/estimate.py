"""``estimate``: what a trained network says of each object's deflector, for fits to begin at."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lenspipe.config import Config
from lenspipe.errors import CandidateError, LenspipeError, Reason
from lenspipe.products import ESTIMATES, ESTIMATOR, MASKS, SHARD, SHARDS
from lenspipe.stage import Inputs, Outputs, Resources, Stage, for_each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lenspipe.io import weights
    from lenspipe.io.shards import Shard
    from lenspipe.nets.estimator import Estimator

log = logging.getLogger(__name__)


class EstimateConfig(Config):
    """Options of ``estimate``."""

    weights: Path | None = Field(None, description="folder of trained weights; null: those that the workflow trains")
    survey: str | None = Field(None, description="weights of another survey are refused; null: any")
    flips: bool = Field(True, description="average over the eight flips and right-angle turns")
    batch_size: int = Field(64, ge=1, description="cutouts at once")


def run(config: EstimateConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.io.estimates import write_estimates
    from lenspipe.io.shards import Shard

    folder = config.weights or inputs.get(ESTIMATOR.name)
    if folder is None:
        raise LenspipeError("estimate: no weights; name their folder, or let train_estimates make some.")

    def estimate(key: str) -> None:
        with Shard(inputs[SHARD.name][key]) as shard:
            net, card = load_estimator(folder, shard, config.survey)
            masks = _masks(inputs.get(MASKS.name, {}).get(key), card, shard) if net.masks else None
            mean, covariance = _estimated(net, card, shard, masks, config)
            write_estimates(outputs[ESTIMATES.name][key], shard.ids, mean, covariance, card.name)
            log.info("%s: deflectors of %d cutouts estimated by %s", key, len(shard), card.name)

    return {"failed": for_each(inputs[SHARD.name], estimate)}


def load_estimator(folder: Path, shard: Shard, survey: str | None) -> tuple[Estimator, weights.Card]:
    """The network in `folder`, ready for the images of `shard`, and its card.

    Raises
    ------
    LenspipeError
        The weights are not for such images, or not of a network that estimates.
    """
    from lenspipe.config import parse
    from lenspipe.io import weights
    from lenspipe.nets.config import EstimatorConfig
    from lenspipe.nets.estimator import Estimator
    from lenspipe.types import DEFLECTOR

    kind, architecture = Estimator.__name__, weights.read_card(folder).architecture
    if architecture != kind:
        raise LenspipeError(f"{folder}: weights of the architecture {architecture!r} do not estimate; {kind} does.")
    tensors, card = weights.load(folder, kind, shard.bands, shard.pixel_scale, DEFLECTOR, survey)
    net = Estimator(parse(EstimatorConfig, card.options, f"{folder}/card.json").at_inference(), len(card.bands))
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise LenspipeError(f"{folder}: the weights are not those of the network on the card ({error}).") from None
    return net.eval(), card


def _masks(path: Path | None, card: weights.Card, shard: Shard) -> NDArray[np.float32]:
    """(N, C, H, W) probabilities by the weights that the network was trained with."""
    from lenspipe.io.masks import read_masks

    expected = card.training.get("masks")
    if path is None:
        raise LenspipeError(f"estimate: {card.name} sees the masks of {expected!r} too, and nothing was segmented.")
    ids, probability, origin = read_masks(path)
    if origin != expected:
        raise LenspipeError(f"{path}: masks by {origin!r}; {card.name} was trained with those of {expected!r}.")
    if ids != shard.ids:
        raise CandidateError(Reason.SHAPE_MISMATCH, f"{path}: masks of other objects than those of {shard.path}.")
    return probability


def _estimated(
    net: Estimator, card: weights.Card, shard: Shard, masks: NDArray[np.float32] | None, config: EstimateConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, 7) means and (N, 7, 7) covariances, lengths in arcsec, theta_E by its logarithm."""
    import numpy as np
    import torch

    from lenspipe.nets.estimates import GROUPS, calibrated, estimate, in_arcsec, joined

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net.to(device)
    parts = []
    for start in range(0, len(shard), config.batch_size):
        rows = slice(start, start + config.batch_size)
        image = np.where(shard.file["valid"][rows], shard.file["image"][rows], np.nan)
        seen = None if masks is None else torch.as_tensor(masks[rows], device=device)
        tensor = torch.as_tensor(image, dtype=torch.float32, device=device)
        parts.append(estimate(net, tensor, seen, config.flips))
    mean, covariance = joined(parts)
    scales = {name: card.calibration[name + ("_flips" if config.flips else "")] for name in GROUPS}
    return in_arcsec(mean, calibrated(covariance, scales), shard.pixel_scale)


STAGE = Stage(
    name="estimate",
    inputs=(SHARD,),
    outputs=(ESTIMATES,),
    optional=(ESTIMATOR, MASKS),
    outside=lambda config: [config.weights] if config.weights else [],
    config=EstimateConfig,
    run=run,
    over=SHARDS,
    resources=Resources(gpus=1, memory_gb=3.0, minutes=60.0),
    summary="Estimate Einstein radius, centre, ellipticity and shear, with their covariance, for fits to begin at.",
)
