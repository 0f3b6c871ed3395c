"""``train``: a segmentation network from labelled shards to weights with a card; killed, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lenspipe.config import Config
from lenspipe.errors import LenspipeError
from lenspipe.nets.config import AnyNet, LossConfig, SmpUNetConfig
from lenspipe.products import LAYERS, SHARD, WEIGHTS
from lenspipe.stage import Inputs, Outputs, Resources, Stage
from lenspipe.types import CLASSES

if TYPE_CHECKING:
    from torch import Tensor

    from lenspipe.io.weights import Card
    from lenspipe.nets.base import Segmenter
    from lenspipe.nets.honesty import Honesty
    from lenspipe.ranks import Ranks
    from lenspipe.train.data import Objects
    from lenspipe.train.engine import Trained

log = logging.getLogger(__name__)
_DESCRIBED = 4000
"""Training objects whose features are enough to say what they are like."""
CHECKPOINTS = ".train-checkpoints"
"""Folder beside the weights that outlives a task which is killed; gone once the weights are there."""


class TrainConfig(Config):
    """Options of ``train``."""

    name: str = Field("unet", description="of the weights; stands as origin with every mask they make")
    survey: str = Field("des", description="that the training data look like")
    net: AnyNet = Field(SmpUNetConfig(), description="the network, by its name")
    encoder_weights: Path | None = Field(
        None, description="file of weights from which the encoder starts, such as ImageNet's; null: from chance"
    )
    loss: LossConfig = Field(LossConfig(), description="what training minimises")
    max_epochs: int = Field(30, ge=1, description="passes over the training set")
    max_minutes: float = Field(60.0, gt=0, description="minutes of training; the learning rate has fallen to 0 by then")
    batch_size: int = Field(16, ge=1, description="cutouts in a step, all ranks together")
    learning_rate: float = Field(5e-3, gt=0, description="at its highest")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW")
    redraw_noise: bool = Field(True, description="new noise in each epoch, where noiseless layers are at hand")
    validation: float = Field(0.1, gt=0, lt=1, description="part of the objects that chooses the best epoch")
    test: float = Field(0.1, ge=0, lt=1, description="part of the objects that is looked at once, at the end")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="of the arithmetic; auto: bfloat16 where the processor computes in it"
    )
    checkpoint_minutes: float = Field(5.0, gt=0, description="between checkpoints in the midst of an epoch")
    readers: int = Field(0, ge=0, description="processes of each rank that read ahead; a fast GPU wants some")
    tensorboard: bool = Field(False, description="write TensorBoard's files too, beside the checkpoints while it runs")


def run(config: TrainConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from lenspipe.io import weights
    from lenspipe.nets.normalise import WORDS
    from lenspipe.ranks import current
    from lenspipe.train.curves import plot
    from lenspipe.train.data import PARTS
    from lenspipe.train.engine import write_csv

    ranks = current()
    if config.batch_size < ranks.size:
        raise LenspipeError(f"train: {ranks.size} ranks cannot share batches of {config.batch_size} objects.")
    objects, facts = _survey(config, inputs)
    counts = {part: len(objects.of(part)) for part in PARTS}
    if not counts["train"] or not counts["validation"]:
        raise LenspipeError(
            f"train: {sum(counts.values())} labelled objects are too few (training and validation: {counts})."
        )
    log.info("objects: %s; ranks: %d", counts, ranks.size)

    output: Path = outputs[WEIGHTS.name]
    checkpoints = output.parent / CHECKPOINTS
    shaping = config.model_dump(mode="json", exclude={"tensorboard", "readers", "checkpoint_minutes"})
    same_training = hashlib.sha256(json.dumps([shaping, facts.data_hash, seed]).encode()).hexdigest()
    folder = checkpoints / same_training[:16]
    result, *_ = ranks.together(_train, config, objects, len(facts.bands), folder, seed, talking=True)

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
        training={
            "data_hash": facts.data_hash,
            **{f"n_{part}": n for part, n in counts.items()},
            "noise_redrawn": objects.layers is not None,
            "epochs": len(result.history),
            "minutes": round(result.minutes, 2),
            "ranks": ranks.size,
            "input_wait": round(result.input_wait, 4),
            "seed": seed,
            "options": config.model_dump(mode="json", exclude={"net"}),
        },
        metrics={name: round(value, 4) for name, value in result.metrics.items() if math.isfinite(value)},
        calibration=honesty.figures(),
        versions={p: version(p) for p in ("lenspipe", "torch", "lightning", "segmentation-models-pytorch", "timm")},
    )
    weights.save(output, {**net.state_dict(), **honesty.familiarity.tensors()}, card)
    (output / "MODEL_CARD.md").write_text(_words(card), encoding="utf-8")
    write_csv(output / "metrics.csv", result.history)
    write_csv(output / "losses.csv", [{"step": n, "loss": loss} for n, loss in enumerate(result.losses, 1)])
    plot(result.history, output / "curves.png")
    if (folder / "tensorboard").exists():
        shutil.move(folder / "tensorboard", output / "tensorboard")
    shutil.rmtree(checkpoints, ignore_errors=True)
    return {"figures": {**card.metrics, "epochs": len(result.history), "minutes": round(result.minutes, 2), **counts}}


def _train(
    ranks: Ranks, config: TrainConfig, objects: Objects, n_bands: int, folder: Path, seed: int
) -> Trained | None:
    """One rank's part; the first one's return value counts."""
    import torch

    from lenspipe.nets.build import build
    from lenspipe.nets.losses import Loss
    from lenspipe.train.data import Batches
    from lenspipe.train.engine import Options, fit
    from lenspipe.train.problem import Segmentation

    torch.manual_seed(seed % 2**63)
    net = build(config.net, n_bands)
    if config.encoder_weights:
        start_encoder(net, config.encoder_weights)
    problem = Segmentation(net, Loss(config.loss))
    options = Options(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_epochs=config.max_epochs,
        max_minutes=config.max_minutes,
        seed=seed,
        precision=config.precision,
        checkpoint_minutes=config.checkpoint_minutes,
        tensorboard=config.tensorboard,
    )
    data = Batches(objects, config.batch_size, seed, ranks, config.readers)
    result = fit(problem, data, folder, options, ranks)
    return None if ranks.rank else result


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


@dataclass(frozen=True)
class _Facts:
    """What all shards of a training agree in, and a hash of all that is read."""

    bands: tuple[str, ...]
    pixel_scale: float
    data_hash: str


@dataclass(frozen=True)
class _Scan:
    """What one shard holds."""

    ids: list[str]
    kind: tuple[tuple[str, ...], float, tuple[int, ...]]
    something: bool
    digest: str


def _survey(config: TrainConfig, inputs: Inputs) -> tuple[Objects, _Facts]:
    """Where all labelled objects lie, which part each belongs to, and what the shards have in common."""
    import h5py
    import numpy as np

    from lenspipe.io.atomic import content_hash
    from lenspipe.ranks import current
    from lenspipe.train.data import PARTS, Layers, Objects, part_of

    paths = [path for _, path in sorted(inputs[SHARD.name].items())]
    found = dict(item for part in current().together(_scan, paths) for item in part)
    scans = [found[number] for number in range(len(paths))]
    kinds = {scan.kind for scan in scans}
    if len(kinds) != 1:
        raise LenspipeError(f"train: the shards differ in bands, pixel scale or size: {sorted(map(str, kinds))}.")
    if not any(scan.something for scan in scans):
        raise LenspipeError(f"train: every label of the {len(paths)} shards is background; there is nothing to learn.")
    ids = [name for scan in scans for name in scan.ids]
    bands, pixel_scale, _ = kinds.pop()
    layers, hashes = None, [scan.digest for scan in scans]
    if config.redraw_noise and (path := inputs.get(LAYERS.name)):
        with h5py.File(path, "r") as f:
            place = {name: row for row, name in enumerate(f["id"].asstr()[:])}
            if missing := [i for i in ids if i not in place]:
                raise LenspipeError(f"{path}: has no layers of {missing[0]}, which is among the training objects.")
            # The band order of the shards may be another one than that of the simulation.
            order = [list(f.attrs["bands"]).index(band) for band in bands]
        layers = Layers(path, np.array([place[i] for i in ids]), order)
        hashes.append(content_hash(path))
    data_hash = hashlib.blake2b("".join(hashes).encode(), digest_size=16).hexdigest()
    objects = Objects(
        paths,
        np.repeat(np.arange(len(scans)), [len(scan.ids) for scan in scans]),
        np.concatenate([np.arange(len(scan.ids)) for scan in scans]),
        np.array([PARTS.index(part_of(i, config.validation, config.test)) for i in ids], np.int8),
        layers,
    )
    return objects, _Facts(bands, pixel_scale, data_hash)


def _scan(ranks: Ranks, paths: list[Path]) -> list[tuple[int, _Scan]]:
    """(number, what it holds) of this rank's share of the shards; what cannot be trained on is refused."""
    from lenspipe.io.atomic import content_hash
    from lenspipe.io.shards import Shard

    found = []
    for number in range(ranks.rank, len(paths), ranks.size):
        path = paths[number]
        with Shard(path) as shard:
            label = shard.labels()
            if label is None:
                raise LenspipeError(f"{path}: holds no labels to train on.")
            if (label >= len(CLASSES)).any():
                raise LenspipeError(f"{path}: a label is {label.max()}; the classes are 0 to {len(CLASSES) - 1}.")
            shape = shard.file["image"].shape
            if len(label) != len(shard) or shape[0] != len(shard) or label.shape[1:] != shape[2:]:
                raise LenspipeError(f"{path}: {len(shard)} objects, images {shape} and labels {label.shape}.")
            kind = (shard.bands, shard.pixel_scale, label.shape[1:])
            something = bool((label != CLASSES.index("background")).any())
            found.append((number, _Scan(shard.ids, kind, something, content_hash(path))))
    return found


def _words(card: Card) -> str:
    """The card for people."""
    metrics = "\n".join(f"| {name} | {value} |" for name, value in card.metrics.items()) or "| none | no test objects |"
    training = "\n".join(f"* {name}: {value}" for name, value in card.training.items())
    return f"""# {card.name}: {card.architecture} for {card.survey}

Segments cutouts into the classes {", ".join(card.classes)} ("noise" means other objects). "lens" is the galaxy in
the middle, also where it lenses nothing.

* input: bands {", ".join(card.bands)} in physical units, {card.pixel_scale} arcsec per pixel, any size
* normalisation: {card.normalisation}
* output: softmax probabilities on the input's pixels

* calibration, on the validation objects: {", ".join(f"{name} {value:.3f}" for name, value in card.calibration.items())}

## On held-out objects (pixels of all pooled; looked at once, after training; probabilities before calibration)

| figure | value |
|---|---|
{metrics}

## Training

{training}

Trained on simulations; what it does on real images of {card.survey} is not told by these figures.
Software: {", ".join(f"{name} {number}" for name, number in card.versions.items())}.
"""


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
