"""``train``: a segmentation network from labelled shards to weights with a card; killed, it goes on where it was."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lenspipe.config import Config
from lenspipe.errors import LenspipeError
from lenspipe.nets.config import UNetConfig
from lenspipe.products import LAYERS, SHARD, WEIGHTS
from lenspipe.stage import Inputs, Outputs, Resources, Stage

if TYPE_CHECKING:
    from lenspipe.io.weights import Card
    from lenspipe.train.data import Objects

log = logging.getLogger(__name__)
CHECKPOINTS = ".train-checkpoints"
"""Folder beside the weights that outlives a task which is killed; gone once the weights are there."""


class TrainConfig(Config):
    """Options of ``train``."""

    name: str = Field("unet", description="of the weights; stands as origin with every mask they make")
    survey: str = Field("des", description="that the training data look like")
    net: UNetConfig = Field(UNetConfig(), description="the network")
    max_epochs: int = Field(30, ge=1, description="passes over the training set")
    max_minutes: float = Field(60.0, gt=0, description="minutes of training; the learning rate has fallen to 0 by then")
    batch_size: int = Field(16, ge=1, description="cutouts in a step")
    learning_rate: float = Field(5e-3, gt=0, description="at its highest")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW")
    redraw_noise: bool = Field(True, description="new noise in each epoch, where noiseless layers are at hand")
    validation: float = Field(0.1, gt=0, lt=1, description="part of the objects that chooses the best epoch")
    test: float = Field(0.1, ge=0, lt=1, description="part of the objects that is looked at once, at the end")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="of the arithmetic; auto: bfloat16 where the processor computes in it"
    )


def run(config: TrainConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    import torch

    from lenspipe.io import weights
    from lenspipe.nets.unet import UNet
    from lenspipe.train.curves import plot
    from lenspipe.train.data import CutoutData
    from lenspipe.train.loop import Segmentation, fit, seed_everything

    objects, bands, pixel_scale, data_hash = _read(inputs, config.redraw_noise)
    data = CutoutData(objects, config.batch_size, config.validation, config.test)
    counts = {name: len(rows) for name, rows in data.rows.items()}
    if not counts["train"] or not counts["validation"]:
        raise LenspipeError(
            f"train: {len(objects.ids)} labelled objects are too few (training and validation: {counts})."
        )
    log.info("objects: %s; threads: %d", counts, torch.get_num_threads())

    output: Path = outputs[WEIGHTS.name]
    checkpoints = output.parent / CHECKPOINTS
    same_training = hashlib.sha256(json.dumps([config.model_dump(mode="json"), data_hash, seed]).encode()).hexdigest()
    seed_everything(seed)
    module = Segmentation(
        UNet(config.net, len(bands)), config.learning_rate, config.weight_decay, config.max_epochs, config.max_minutes
    )
    result = fit(module, data, checkpoints / same_training[:16], config.precision)

    output.mkdir()
    card = weights.Card(
        name=config.name,
        architecture=UNet.__name__,
        options=config.net.model_dump(mode="json"),
        survey=config.survey,
        bands=bands,
        pixel_scale=pixel_scale,
        classes=result.classes,
        normalisation="inside the network: asinh((image - sky) / rms), sky and rms per image and band, taken robustly",
        training={
            "data_hash": data_hash,
            **{f"n_{part}": n for part, n in counts.items()},
            "noise_redrawn": objects.clean is not None,
            "epochs": len(result.history),
            "minutes": round(result.minutes, 2),
            "seed": seed,
            "options": config.model_dump(mode="json", exclude={"net"}),
        },
        metrics={name: round(value, 4) for name, value in result.metrics.items()},
        versions={p: version(p) for p in ("lenspipe", "torch", "lightning", "segmentation-models-pytorch", "timm")},
    )
    weights.save(output, result.weights, card)
    (output / "MODEL_CARD.md").write_text(_words(card), encoding="utf-8")
    with (output / "metrics.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(result.history[0]))
        writer.writeheader()
        writer.writerows(result.history)
    plot(result.history, output / "curves.png")
    shutil.rmtree(checkpoints, ignore_errors=True)
    return {"figures": {**card.metrics, "epochs": len(result.history), "minutes": round(result.minutes, 2), **counts}}


def _read(inputs: Inputs, redraw_noise: bool) -> tuple[Objects, tuple[str, ...], float, str]:
    """All labelled objects of the shards, their bands, arcsec per pixel, and a hash of all that was read."""
    import h5py
    import numpy as np

    from lenspipe.io.atomic import content_hash
    from lenspipe.io.shards import Shard
    from lenspipe.train.data import Objects

    ids: list[str] = []
    images, labels, kinds, hashes = [], [], set(), []
    for _, path in sorted(inputs[SHARD.name].items()):
        with Shard(path) as shard:
            label = shard.labels()
            if label is None:
                raise LenspipeError(f"{path}: holds no labels to train on.")
            ids += shard.ids
            images.append(np.where(shard.file["valid"][:], shard.file["image"][:], np.float32(np.nan)))
            labels.append(label)
            kinds.add((shard.bands, shard.pixel_scale, label.shape[1:]))
        hashes.append(content_hash(path))
    if len(kinds) != 1:
        raise LenspipeError(f"train: the shards differ in bands, pixel scale or size: {sorted(map(str, kinds))}.")
    bands, pixel_scale, _ = kinds.pop()
    noise: dict[str, Any] = {}
    if redraw_noise and (layers := inputs.get(LAYERS.name)):
        with h5py.File(layers, "r") as f:
            place = {name: row for row, name in enumerate(f["id"].asstr()[:])}
            if missing := [i for i in ids if i not in place]:
                raise LenspipeError(f"{layers}: has no layers of {missing[0]}, which is among the training objects.")
            rows = [place[i] for i in ids]
            # The band order of the shards may be another one than that of the simulation.
            order = [list(f.attrs["bands"]).index(band) for band in bands]
            noise["clean"] = sum(f[name][:] for name in ("source", "lens", "others"))[rows][:, order]
            noise["sky_rms"] = f["sky_rms"][:][rows][:, order].astype(np.float32)
            noise["gain"] = f["exposure_time"][:][rows][:, order].astype(np.float32)
        hashes.append(content_hash(layers))
    data_hash = hashlib.blake2b("".join(hashes).encode(), digest_size=16).hexdigest()
    return Objects(ids, np.concatenate(images), np.concatenate(labels), **noise), bands, pixel_scale, data_hash


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

## On held-out objects (IoU pooled over all pixels; looked at once, after training)

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
    headline=("macro_iou",),
    resources=Resources(cpus=2, gpus=1, memory_gb=4.0, minutes=240.0),
    summary="Train the segmentation network on labelled shards.",
)
