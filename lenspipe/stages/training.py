"""What the stages that train share: options, where the objects lie, and a training that is killed and goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lenspipe.config import Config
from lenspipe.errors import LenspipeError
from lenspipe.products import LAYERS, SHARD
from lenspipe.stage import Inputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lenspipe.io.shards import Shard
    from lenspipe.io.weights import Card
    from lenspipe.ranks import Ranks
    from lenspipe.train.data import Objects
    from lenspipe.train.engine import Trained
    from lenspipe.train.problem import Problem

log = logging.getLogger(__name__)
_FREE = {"tensorboard", "readers", "checkpoint_minutes", "segmenter"}
"""Options that do not change what comes out, or of which only what they lead to does."""


class TrainingConfig(Config):
    """Options of every stage that trains."""

    survey: str = Field("des", description="that the training data look like")
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


@dataclass(frozen=True)
class Facts:
    """What all shards of a training agree in, and a hash of all that is read."""

    bands: tuple[str, ...]
    pixel_scale: float
    shape: tuple[int, int]
    data_hash: str


@dataclass(frozen=True)
class Learnable:
    """What a shard has to learn from: (K,) rows, and what the stage wants to know of them."""

    rows: NDArray[np.int64]
    known: Any


@dataclass(frozen=True)
class _Scan:
    ids: list[str]
    kind: tuple[tuple[str, ...], float, tuple[int, int]]
    found: Learnable
    digest: str


Look = Callable[["Shard"], Learnable]
"""Says what a shard has to learn from, or raises `LenspipeError`; a function of a module, so that ranks can call it."""
Make = Callable[[Any, "Objects", Facts], "Problem"]
"""The untrained problem of a stage's options; a function of a module too."""


def gather(stage: str, config: TrainingConfig, inputs: Inputs, look: Look) -> tuple[Objects, Facts, list[Any]]:
    """Where all objects lie, which part each belongs to, what the shards have in common, and what `look` knows of each
    shard."""
    import h5py
    import numpy as np

    from lenspipe.io.atomic import content_hash
    from lenspipe.ranks import current
    from lenspipe.train.data import PARTS, Layers, Objects, part_of

    paths = [path for _, path in sorted(inputs[SHARD.name].items())]
    scanned = dict(item for part in current().together(_scan, paths, look) for item in part)
    scans = [scanned[number] for number in range(len(paths))]
    kinds = {scan.kind for scan in scans}
    if len(kinds) != 1:
        raise LenspipeError(f"{stage}: the shards differ in bands, pixel scale or size: {sorted(map(str, kinds))}.")
    ids = [scan.ids[row] for scan in scans for row in scan.found.rows]
    bands, pixel_scale, shape = kinds.pop()
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
        np.repeat(np.arange(len(scans)), [len(scan.found.rows) for scan in scans]),
        np.concatenate([scan.found.rows for scan in scans]),
        np.array([PARTS.index(part_of(i, config.validation, config.test)) for i in ids], np.int8),
        layers,
    )
    return objects, Facts(bands, pixel_scale, shape, data_hash), [scan.found.known for scan in scans]


def _scan(ranks: Ranks, paths: list[Path], look: Look) -> list[tuple[int, _Scan]]:
    """(number, what it holds) of this rank's share of the shards; what cannot be trained on is refused."""
    from lenspipe.io.atomic import content_hash
    from lenspipe.io.shards import Shard

    found = []
    for number in range(ranks.rank, len(paths), ranks.size):
        path = paths[number]
        with Shard(path) as shard:
            shape = shard.file["image"].shape
            kind = (shard.bands, shard.pixel_scale, (shape[2], shape[3]))
            found.append((number, _Scan(shard.ids, kind, look(shard), content_hash(path))))
    return found


class Training:
    """One training of `objects`, whose checkpoints lie beside `output` until `leave` has written what it led to.

    Attributes
    ----------
    counts : part -> objects.
    """

    def __init__(
        self,
        stage: str,
        config: TrainingConfig,
        objects: Objects,
        facts: Facts,
        output: Path,
        seed: int,
        also: str = "",
    ):
        """`also` is the hash of what options lead to and training depends on."""
        from lenspipe.ranks import current
        from lenspipe.train.data import PARTS

        self.config, self.objects, self.facts, self.output, self.seed = config, objects, facts, output, seed
        self.ranks = current()
        if config.batch_size < self.ranks.size:
            size = config.batch_size
            raise LenspipeError(f"{stage}: {self.ranks.size} ranks cannot share batches of {size} objects.")
        self.counts = {part: len(objects.of(part)) for part in PARTS}
        if not self.counts["train"] or not self.counts["validation"]:
            total = sum(self.counts.values())
            raise LenspipeError(
                f"{stage}: {total} objects to learn from are too few (training and validation: {self.counts})."
            )
        log.info("objects: %s; ranks: %d", self.counts, self.ranks.size)
        shaping = config.model_dump(mode="json", exclude=_FREE)
        same = hashlib.sha256(json.dumps([shaping, facts.data_hash, seed, also]).encode()).hexdigest()
        self._checkpoints = output.parent / checkpoints(stage)
        self._folder = self._checkpoints / same[:16]

    def run(self, make: Make) -> Trained:
        """Train the problem that `make` makes, on all ranks."""
        result: Trained
        arguments = (make, self.config, self.objects, self.facts, self._folder, self.seed)
        result, *_ = self.ranks.together(_train, *arguments, talking=True)
        return result

    def facts_of(self, result: Trained) -> dict[str, Any]:
        """What a card says of the training."""
        return {
            "data_hash": self.facts.data_hash,
            **{f"n_{part}": n for part, n in self.counts.items()},
            "noise_redrawn": self.objects.layers is not None,
            "epochs": len(result.history),
            "minutes": round(result.minutes, 2),
            "ranks": self.ranks.size,
            "input_wait": round(result.input_wait, 4),
            "seed": self.seed,
            "options": self.config.model_dump(mode="json", exclude={"net", "segmenter"}),
        }

    def leave(self, result: Trained, figures: Sequence[str], what: str) -> dict[str, float]:
        """Write curves and tables into the output folder, remove the checkpoints, and return figures for the receipt.

        Parameters
        ----------
        figures, what : as of `lenspipe.train.curves.plot`.
        """
        from lenspipe.train.curves import plot
        from lenspipe.train.engine import write_csv

        write_csv(self.output / "metrics.csv", result.history)
        losses = [{"step": n, "loss": loss} for n, loss in enumerate(result.losses, 1)]
        write_csv(self.output / "losses.csv", losses)
        plot(result.history, self.output / "curves.png", figures, what)
        if (self._folder / "tensorboard").exists():
            shutil.move(self._folder / "tensorboard", self.output / "tensorboard")
        shutil.rmtree(self._checkpoints, ignore_errors=True)
        return {"epochs": len(result.history), "minutes": round(result.minutes, 2), **self.counts}


def checkpoints(stage: str) -> str:
    """Folder beside the weights that outlives a task which is killed; gone once the weights are there."""
    return f".{stage}-checkpoints"


def _train(
    ranks: Ranks, make: Make, config: TrainingConfig, objects: Objects, facts: Facts, folder: Path, seed: int
) -> Trained | None:
    """One rank's part; the first one's return value counts."""
    import torch

    from lenspipe.train.data import Batches
    from lenspipe.train.engine import Options, fit

    torch.manual_seed(seed % 2**63)
    problem = make(config, objects, facts)
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


def closing(card: Card) -> str:
    """The end of the card for people: figures, training, software."""
    figures = "\n".join(f"| {name} | {value} |" for name, value in card.metrics.items()) or "| none | no test objects |"
    training = "\n".join(f"* {name}: {value}" for name, value in card.training.items())
    return f"""| figure | value |
|---|---|
{figures}

## Training

{training}

Trained on simulations; what it does on real images of {card.survey} is not told by these figures.
Software: {", ".join(f"{name} {number}" for name, number in card.versions.items())}.
"""
