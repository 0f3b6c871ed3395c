"""Labelled cutouts as batches, read from their shards as they are wanted; every random draw follows from the object.

Which objects make up a batch of an epoch, and how each is turned and what noise it gets, depends on the seed, the epoch
and the object, never on how many ranks or reading processes there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lenspipe.nets.turns import Turn
from lenspipe.ranks import Ranks

PARTS = ("train", "validation", "test")
WINDOW = 2048
"""Objects that are shuffled among each other, and at most that many that are held in memory at a time."""
Batch = tuple[Tensor, Tensor]
"""Images (N, B, H, W) f4 in physical units, NaN where a pixel may not be used, and what is to be learnt of them: labels
(N, H, W) i8, or parameters (N, 7) f4 (`Objects.truth`)."""


def part_of(object_id: str, validation: float, test: float) -> str:
    """``train``, ``validation`` or ``test``: by a hash of the id alone, so that an object never changes sides."""
    digest = hashlib.blake2b(object_id.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


@dataclass(frozen=True)
class Layers:
    """Noiseless layers of the training objects.

    Attributes
    ----------
    path : HDF5 file with ``source lens others`` (N, B, H, W), ``sky_rms exposure_time`` (N, B).
    row : (N,) row of each object in it.
    bands : the file's plane of each band.
    """

    path: Path
    row: NDArray[np.int64]
    bands: Sequence[int]


@dataclass(frozen=True)
class Objects:
    """N objects in shards, and what is to be learnt of them.

    Attributes
    ----------
    shards : files.
    shard, row : (N,) where each object lies.
    part : (N,) index into `PARTS`.
    layers : for training images with new noise in each epoch; None: as they are in the shards.
    truth : (N, 7) f4, parameters ordered as `lenspipe.types.DEFLECTOR`; None: the labels in the shards are learnt.
    """

    shards: Sequence[Path]
    shard: NDArray[np.int64]
    row: NDArray[np.int64]
    part: NDArray[np.int8]
    layers: Layers | None = None
    truth: NDArray[np.float32] | None = None

    def of(self, part: str) -> NDArray[np.int64]:
        """Numbers of the objects of a part."""
        return np.flatnonzero(self.part == PARTS.index(part))


def epoch_order(shard: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """(N,) a permutation: shards in random order, and the objects of each `WINDOW` of them among each other."""
    rng = np.random.default_rng([seed, epoch])
    order = np.argsort(rng.permutation(int(shard.max()) + 1)[shard], kind="stable")
    # Windows begin elsewhere in each epoch, and end with whole shards only by chance: nothing depends on it.
    for start in range(-int(rng.integers(WINDOW)), len(order), WINDOW):
        rng.shuffle(order[max(start, 0) : start + WINDOW])
    return order


def share(size: int, rank: int, ranks: int) -> slice:
    """The part of a batch of `size` objects that is `rank`'s."""
    return slice(size * rank // ranks, size * (rank + 1) // ranks)


class TrainingSet(IterableDataset[Batch]):
    """One epoch's batches from a step on, this rank's share of each.

    Parameters
    ----------
    batch_size : objects of a step, all ranks together. What is left over at an epoch's end is left out.
    """

    def __init__(
        self,
        objects: Objects,
        batch_size: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        epoch: int = 0,
        first: int = 0,
    ):
        self.objects, self.seed, self.rank, self.ranks = objects, seed, rank, ranks
        self.epoch, self.first = epoch, first
        self.numbers = objects.of("train")
        self.batch_size = min(batch_size, len(self.numbers))

    def __len__(self) -> int:
        return len(self.numbers) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        lead, step = (worker.id, worker.num_workers) if worker else (0, 1)
        order = self.numbers[epoch_order(self.objects.shard[self.numbers], self.seed, self.epoch)]
        mine = share(self.batch_size, self.rank, self.ranks)
        batches = order[: len(self) * self.batch_size].reshape(len(self), -1)[self.first + lead :: step, mine]
        at_a_time = max(1, WINDOW // max(1, batches.shape[1]))
        with _Files(self.objects) as files:
            for start in range(0, len(batches), at_a_time):
                some = batches[start : start + at_a_time]
                images, answers, noise = files.training(some.ravel())
                for number, rows in enumerate(np.arange(some.size).reshape(some.shape)):
                    made = [
                        _vary(images[row], answers[row], [a[row] for a in noise], self._rng(int(some[number, i])))
                        for i, row in enumerate(rows)
                    ]
                    yield tuple(torch.from_numpy(np.stack(a)) for a in zip(*made))  # type: ignore[misc]

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed % 2**64, (self.epoch << 40) + number]))


class EvaluationSet(IterableDataset[Batch]):
    """This rank's share of a part, as it lies in the shards."""

    def __init__(self, objects: Objects, part: str, batch_size: int, rank: int = 0, ranks: int = 1):
        self.objects, self.batch_size = objects, batch_size
        numbers = objects.of(part)
        self.numbers = numbers[share(len(numbers), rank, ranks)]

    def __iter__(self) -> Iterator[Batch]:
        with _Files(self.objects) as files:
            for start in range(0, len(self.numbers), self.batch_size):
                some = self.numbers[start : start + self.batch_size]
                yield torch.from_numpy(files.image(some)), torch.from_numpy(files.answer(some))


@dataclass(frozen=True)
class Batches:
    """Batches of `Objects` for the engine.

    Attributes
    ----------
    batch_size : objects of a training step, all ranks together.
    readers : processes that read ahead; with 0 this one reads as batches are wanted.
    """

    objects: Objects
    batch_size: int
    seed: int
    ranks: Ranks
    readers: int = 0

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return len(TrainingSet(self.objects, self.batch_size, self.seed))

    def training(self, epoch: int, first: int) -> DataLoader[Batch]:
        rank, ranks = self.ranks.rank, self.ranks.size
        return self._load(TrainingSet(self.objects, self.batch_size, self.seed, rank, ranks, epoch, first))

    def evaluation(self, part: str) -> DataLoader[Batch] | None:
        if not len(self.objects.of(part)):
            return None
        size = max(1, 2 * self.batch_size // self.ranks.size)
        return self._load(EvaluationSet(self.objects, part, size, self.ranks.rank, self.ranks.size))

    def _load(self, dataset: IterableDataset[Batch]) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=self.readers,
            prefetch_factor=4 if self.readers else None,
            pin_memory=torch.cuda.is_available(),
        )


class _Files:
    """The HDF5 files of `Objects`: opened where they are read, after any fork, and closed again."""

    def __init__(self, objects: Objects):
        self._objects = objects
        self._open: dict[Path, h5py.File] = {}

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def training(self, numbers: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], list[NDArray[Any]]]:
        """Images, what is to be learnt of them, and what is needed to draw the noise anew (or nothing)."""
        layers = self._objects.layers
        if layers is None:
            return self.image(numbers), self.answer(numbers), []
        rows = layers.row[numbers]
        clean = sum(_rows(self._file(layers.path)[name], rows) for name in ("source", "lens", "others"))
        assert isinstance(clean, np.ndarray)
        noise = [_rows(self._file(layers.path)[name], rows)[:, layers.bands] for name in ("sky_rms", "exposure_time")]
        return clean[:, layers.bands], self.answer(numbers), [a.astype(np.float32) for a in noise]

    def image(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, B, H, W), NaN where a pixel may not be used."""
        image = self._gather("image", numbers)
        image[~self._gather("valid", numbers)] = np.nan
        return image

    def answer(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """(N, H, W) i8 labels or (N, 7) f4 parameters."""
        truth = self._objects.truth
        return self._gather("label", numbers).astype(np.int64) if truth is None else truth[numbers]

    def _gather(self, name: str, numbers: NDArray[np.int64]) -> NDArray[Any]:
        shard, row = self._objects.shard[numbers], self._objects.row[numbers]
        found: NDArray[Any] | None = None
        for number in np.unique(shard):
            here = np.flatnonzero(shard == number)
            values = _rows(self._file(self._objects.shards[number])[name], row[here])
            if found is None:
                found = np.empty((len(numbers), *values.shape[1:]), values.dtype)
            found[here] = values
        assert found is not None
        return found

    def _file(self, path: Path) -> h5py.File:
        if path not in self._open:
            while len(self._open) >= 64:
                self._open.pop(next(iter(self._open))).close()
            self._open[path] = h5py.File(path, "r")
        return self._open[path]


def _rows(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    """``dataset[rows]`` in any order; as a whole where most is wanted, which is many times faster."""
    if 4 * len(rows) >= len(dataset):
        return np.asarray(dataset[:][rows])
    unique, place = np.unique(rows, return_inverse=True)
    return np.asarray(dataset[unique][place])


def _vary(
    image: NDArray[np.float32], answer: NDArray[Any], noise: list[NDArray[np.float32]], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    if noise:
        sky_rms, gain = noise
        image = redraw_noise(image, sky_rms, gain, rng)
    return turn(image, answer, rng)


def redraw_noise(
    clean: NDArray[np.float32], sky_rms: NDArray[np.float32], gain: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A new observation of a noiseless (B, H, W) image: variance = sky_rms^2 + flux / gain, both (B,)."""
    sigma = clean / gain[:, None, None]
    np.maximum(sigma, 0, out=sigma)
    sigma += np.square(sky_rms)[:, None, None]
    np.sqrt(sigma, out=sigma)
    sigma *= rng.standard_normal(clean.shape, np.float32)
    sigma += clean
    return sigma


def turn(
    image: NDArray[np.float32], answer: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """A (B, H, W) image and its (H, W) label or (7,) parameters by one of the eight flips and right-angle turns, drawn
    at random.

    Images that are not square are flipped only.
    """
    rows, columns, transpose = (bool(flag) for flag in rng.random(3) < 0.5)
    drawn = Turn(rows, columns, transpose and image.shape[-1] == image.shape[-2])
    if answer.ndim == 1:
        return drawn.image(image), (drawn.matrix() @ answer).astype(answer.dtype)
    return drawn.image(image), drawn.image(answer)
