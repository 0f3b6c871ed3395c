"""A small training on real shards: ``python -m tests.train.toys FOLDER`` under a launcher, or `train` in a test."""

import json
import os
import signal
import sys
from pathlib import Path

import h5py
import numpy as np
import torch

from lenspipe.errors import LenspipeError
from lenspipe.nets.base import Segmenter
from lenspipe.nets.config import LossConfig, NetConfig
from lenspipe.nets.losses import Loss
from lenspipe.ranks import Ranks, opened
from lenspipe.train.data import PARTS, Batches, Objects, part_of
from lenspipe.train.engine import Options, fit
from lenspipe.train.problem import Segmentation

IDS = [f"SIM{i:07d}" for i in range(150)]
SIZES = (60, 50, 40)
SIZE = 12
LOSS = Loss(LossConfig())


class Net(Segmenter):
    """Enough for classes that are told by brightness; GroupNorm, so that a batch may be shared out."""

    def __init__(self):
        super().__init__(NetConfig(), 1)
        self.normalise = torch.nn.Identity()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1),
            torch.nn.GroupNorm(2, 8),
            torch.nn.SiLU(),
            torch.nn.Dropout2d(0.0),
            torch.nn.Conv2d(8, 4, 1),
        )

    def logits(self, x):
        return self.layers(x)

    def features(self, x):
        return self.layers[:3](x)


def write(folder):
    """Labelled shards of `SIZES` objects."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(SIZES):
        label = np.repeat(np.repeat(rng.integers(0, 4, (size, SIZE // 2, SIZE // 2)), 2, 1), 2, 2).astype(np.uint8)
        image = (label + rng.normal(0, 0.3, label.shape))[:, None].astype(np.float32)
        with h5py.File(folder / f"{number}.h5", "w") as f:
            f["image"], f["valid"], f["label"] = image, np.ones(image.shape, bool), label
    return objects(folder)


def objects(folder, validation=0.15, test=0.15):
    return Objects(
        [folder / f"{number}.h5" for number in range(len(SIZES))],
        np.repeat(np.arange(len(SIZES)), SIZES),
        np.concatenate([np.arange(size) for size in SIZES]),
        np.array([PARTS.index(part_of(i, validation, test)) for i in IDS], np.int8),
    )


class Watched(Segmentation):
    """A problem in which something happens at a step: ``term`` and ``usr1`` signal this process, ``kill`` kills it."""

    def __init__(self, net, at=None, what="", rank=0):
        super().__init__(net, LOSS)
        self.at, self.what, self.steps, self.me = at, what, 0, rank

    def forward(self, batch):
        self.steps += 1
        if self.at == self.steps:
            if self.what == "error":
                raise LenspipeError("an error")
            os.kill(os.getpid(), {"term": signal.SIGTERM, "usr1": signal.SIGUSR1, "kill": signal.SIGKILL}[self.what])
        return super().forward(batch)


def train(folder, ranks=None, at=None, what="", readers=0, **options):
    ranks = ranks or Ranks(cpus=1)
    torch.manual_seed(3)
    torch.set_num_threads(1)
    problem = Watched(Net(), at, what)
    defaults = {"learning_rate": 0.05, "weight_decay": 0.0, "max_epochs": 4, "max_minutes": 5.0, "seed": 7}
    how = Options(**{**defaults, "precision": "32-true", **options})
    data = Batches(objects(folder), 16, 7, ranks, readers)
    return fit(problem, data, folder / "checkpoints", how, ranks)


def part(ranks, folder, rank, at, what):
    """One rank's part; on `rank` something happens at step `at`."""
    result = train(folder, ranks, at if ranks.rank == rank else None, what, checkpoint_minutes=1e-9)
    return None if ranks.rank else result


if __name__ == "__main__":
    from tests.train import toys  # by its name, so that the other ranks find its functions

    place = Path(sys.argv[1])
    happens = (int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]) if len(sys.argv) > 2 else (-1, None, "")
    with opened("torch", "tests.train.toys") as team:
        if team.rank:
            team.serve()
        else:
            result, *_ = team.together(toys.part, place, *happens, talking=True)
            told = {"losses": result.losses, "history": result.history, "metrics": result.metrics}
            (place / "result.json").write_text(json.dumps(told))
