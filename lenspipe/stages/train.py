"""``train``: a segmentation network from labelled shards to weights with a card; killed, it goes on where it was."""

from __future__ import annotations

import math
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lenspipe.errors import LenspipeError
from lenspipe.nets.config import AnyNet, LossConfig, SmpUNetConfig
from lenspipe.products import LAYERS, SHARD, WEIGHTS
from lenspipe.stage import Inputs, Outputs, Resources, Stage
from lenspipe.stages.training import Facts, Learnable, Training, TrainingConfig, closing, gather
from lenspipe.types import CLASSES

if TYPE_CHECKING:
    from torch import Tensor

    from lenspipe.io.shards import Shard
    from lenspipe.io.weights import Card
    from lenspipe.nets.base import Segmenter
    from lenspipe.nets.honesty import Honesty
    from lenspipe.train.data import Objects
    from lenspipe.train.problem import Problem

_DESCRIBED = 4000
"""Training objects whose features are enough to say what they are like."""


class TrainConfig(TrainingConfig):
    """Options of ``train``."""

    name: str = Field("unet", description="of the weights; stands as origin with every mask they make")
    net: AnyNet = Field(SmpUNetConfig(), description="the network, by its name")
    encoder_weights: Path | None = Field(
        None, description="file of weights from which the encoder starts, such as ImageNet's; null: from chance"
    )
    loss: LossConfig = Field(LossConfig(), description="what training minimises")


def run(config: TrainConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.io import weights
    from lenspipe.nets.normalise import WORDS

    objects, facts, something = gather("train", config, inputs, _labels)
    if not any(something):
        count = len(something)
        raise LenspipeError(f"train: every label of the {count} shards is background; there is nothing to learn.")
    output: Path = outputs[WEIGHTS.name]
    training = Training("train", config, objects, facts, output, seed)
    result = training.run(problem)
    net, honesty = _assessed(config, objects, len(facts.bands), result.weights)
    output.mkdir()
    card = weights.Card(
        name=config.name,
        architecture=type(net).__name__,
        options=config.net.model_dump(mode="json"),
        survey=config.survey,
        bands=facts.bands,
        pixel_scale=facts.pixel_scale,
        classes=CLASSES,
        normalisation=f"inside the network: {WORDS[config.net.scaling]}",
        training=training.facts_of(result),
        metrics={name: round(value, 4) for name, value in result.metrics.items() if math.isfinite(value)},
        calibration=honesty.figures(),
        versions={p: version(p) for p in ("lenspipe", "torch", "lightning", "segmentation-models-pytorch", "timm")},
    )
    weights.save(output, {**net.state_dict(), **honesty.familiarity.tensors()}, card)
    (output / "MODEL_CARD.md").write_text(_words(card), encoding="utf-8")
    figures = training.leave(result, ("macro_iou", *(f"iou_{name}" for name in CLASSES)), "IoU")
    return {"figures": {**card.metrics, **figures}}


def problem(config: TrainConfig, objects: Objects, facts: Facts) -> Problem:
    """What is trained."""
    from lenspipe.nets.build import build
    from lenspipe.nets.losses import Loss
    from lenspipe.train.problem import Segmentation

    net = build(config.net, len(facts.bands))
    if config.encoder_weights:
        start_encoder(net, config.encoder_weights)
    return Segmentation(net, Loss(config.loss))


def start_encoder(net: Segmenter, path: Path) -> None:
    """Load the encoder's weights in `path`; `LenspipeError` where `net` has no such encoder."""
    from lenspipe.io.weights import read_tensors
    from lenspipe.nets.smp import Pretrainable

    if not isinstance(net, Pretrainable):
        raise LenspipeError(f"train.encoder_weights: a {type(net).__name__} has no encoder that others trained.")
    try:
        net.load_encoder(read_tensors(path))
    except LenspipeError as error:
        raise LenspipeError(f"{path}: {error}") from None


def _assessed(
    config: TrainConfig, objects: Objects, n_bands: int, tensors: dict[str, Tensor]
) -> tuple[Segmenter, Honesty]:
    """The trained network as it will be used, and what it says of itself."""
    import torch

    from lenspipe.nets.build import build
    from lenspipe.nets.honesty import assess
    from lenspipe.train.data import EvaluationSet

    net = build(config.net.at_inference(), n_bands)
    net.load_state_dict({name: tensors[name] for name in net.state_dict()})
    net.to("cuda" if torch.cuda.is_available() else "cpu")
    size = 2 * config.batch_size
    training = islice(EvaluationSet(objects, "train", size), -(-_DESCRIBED // size))
    honesty = assess(net, training, EvaluationSet(objects, "validation", size))
    return net.cpu(), honesty


def _labels(shard: Shard) -> Learnable:
    """All rows, and whether any pixel of them is of another class than the background."""
    import numpy as np

    label = shard.labels()
    if label is None:
        raise LenspipeError(f"{shard.path}: holds no labels to train on.")
    if (label >= len(CLASSES)).any():
        raise LenspipeError(f"{shard.path}: a label is {label.max()}; the classes are 0 to {len(CLASSES) - 1}.")
    shape = shard.file["image"].shape
    if label.shape[1:] != shape[2:]:
        raise LenspipeError(f"{shard.path}: images of {shape[2:]} pixels and labels of {label.shape[1:]}.")
    return Learnable(np.arange(len(shard)), bool((label != CLASSES.index("background")).any()))


def _words(card: Card) -> str:
    """The card for people."""
    return f"""# {card.name}: {card.architecture} for {card.survey}

Segments cutouts into the classes {", ".join(card.classes)} ("noise" means other objects). "lens" is the galaxy in
the middle, also where it lenses nothing.

* input: bands {", ".join(card.bands)} in physical units, {card.pixel_scale} arcsec per pixel, any size
* normalisation: {card.normalisation}
* output: softmax probabilities on the input's pixels

* calibration, on the validation objects: {", ".join(f"{name} {value:.3f}" for name, value in card.calibration.items())}

## On held-out objects (pixels of all pooled; looked at once, after training; probabilities before calibration)

{closing(card)}"""


STAGE = Stage(
    name="train",
    inputs=(SHARD,),
    outputs=(WEIGHTS,),
    optional=(LAYERS,),
    config=TrainConfig,
    run=run,
    outside=lambda config: [config.encoder_weights] if config.encoder_weights else [],
    headline=("macro_iou",),
    talk="torch",
    version=3,
    resources=Resources(cpus=2, gpus=1, memory_gb=4.0, minutes=240.0),
    summary="Train the segmentation network on labelled shards.",
)
