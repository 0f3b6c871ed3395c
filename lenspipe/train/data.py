"""Labelled cutouts as batches; which objects train, validate and test is a fixed rule on their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lenspipe.nets import compat  # noqa: F401  (before lightning)

import lightning  # isort: skip

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Objects:
    """N labelled objects.

    Attributes
    ----------
    ids : N.
    image : (N, B, H, W) f4 in physical units, NaN where a pixel may not be used.
    label : (N, H, W) u1.
    clean : (N, B, H, W) f4 noiseless image, or None where the noise cannot be drawn anew.
    sky_rms, gain : (N, B) noise of the sky, and flux / gain = variance of an object's flux; needed with `clean`.
    """

    ids: Sequence[str]
    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    clean: NDArray[np.float32] | None = None
    sky_rms: NDArray[np.float32] | None = None
    gain: NDArray[np.float32] | None = None


def part_of(object_id: str, validation: float, test: float) -> str:
    """``train``, ``validation`` or ``test``: by a hash of the id alone, so that an object never changes sides."""
    digest = hashlib.blake2b(object_id.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


class CutoutData(lightning.LightningDataModule):
    """Batches ``(image, label)``; for training also what is needed to draw the noise anew, where that is known."""

    def __init__(self, objects: Objects, batch_size: int, validation: float, test: float):
        super().__init__()
        self.objects = objects
        self.batch_size = batch_size
        parts = np.array([part_of(i, validation, test) for i in objects.ids])
        self.rows = {name: np.flatnonzero(parts == name) for name in PARTS}

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        o, rows = self.objects, self.rows["train"]
        tensors = [
            torch.as_tensor(array[rows])
            for array in (o.image, o.label, o.clean, o.sky_rms, o.gain)
            if array is not None
        ]
        return DataLoader(TensorDataset(*tensors), self.batch_size, shuffle=True, drop_last=len(rows) > self.batch_size)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._plain("validation")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._plain("test")

    def _plain(self, part: str) -> DataLoader[tuple[Tensor, ...]]:
        rows = self.rows[part]
        tensors = torch.as_tensor(self.objects.image[rows]), torch.as_tensor(self.objects.label[rows])
        return DataLoader(TensorDataset(*tensors), 2 * self.batch_size)


def redraw_noise(clean: Tensor, sky_rms: Tensor, gain: Tensor) -> Tensor:
    """A new observation of noiseless (N, B, H, W) images: variance = sky_rms^2 + flux / gain."""
    variance = sky_rms[..., None, None] ** 2 + clean.clamp(min=0) / gain[..., None, None]
    return clean + variance.sqrt() * torch.randn_like(clean)


def turn(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Each (B, H, W) image and (H, W) label by one of the eight flips and right-angle turns, drawn at random.

    Images that are not square are flipped only.
    """
    square = image.shape[-1] == image.shape[-2]
    image, label = image.clone(), label.clone()
    for axis in (-1, -2):
        chosen = torch.rand(len(image), device=image.device) < 0.5
        image[chosen], label[chosen] = image[chosen].flip(axis), label[chosen].flip(axis)
    if square:
        chosen = torch.rand(len(image), device=image.device) < 0.5
        image[chosen], label[chosen] = image[chosen].transpose(-1, -2), label[chosen].transpose(-1, -2)
    return image, label
