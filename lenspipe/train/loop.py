"""The training loop: one Lightning module and what watches it. Resumes from its newest whole checkpoint."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lenspipe.nets import compat  # noqa: F401  (before lightning)
from lenspipe.nets.losses import cross_entropy_dice
from lenspipe.nets.metrics import PooledIoU
from lenspipe.train.data import CutoutData, redraw_noise, turn
from lenspipe.types import CLASSES

import lightning  # isort: skip
from lightning.pytorch.callbacks import Callback, ModelCheckpoint  # isort: skip

log = logging.getLogger(__name__)
Precision = Literal["auto", "32-true", "bf16-mixed"]
_WARM_UP = 0.08
"""Part of the training during which the learning rate rises."""


class Segmentation(lightning.LightningModule):
    """Cross-entropy + Dice, AdamW, one rise and fall of the learning rate.

    Parameters
    ----------
    net : (N, B, H, W) physical units to (N, C, H, W) logits.
    learning_rate : at its highest.
    weight_decay : of AdamW.
    max_epochs : passes over the training set, unless the time ends first.
    max_minutes : wall time. The learning rate falls to zero by then: each epoch plans how many more there is time for.
    """

    progress: Tensor
    seconds: Tensor

    def __init__(self, net: nn.Module, learning_rate: float, weight_decay: float, max_epochs: int, max_minutes: float):
        super().__init__()
        self.net = net
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.max_epochs, self.max_seconds = max_epochs, 60 * max_minutes
        self.val_iou, self.test_iou = PooledIoU(), PooledIoU()
        # Part of the training done, seconds spent by earlier processes: both survive in checkpoints.
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.register_buffer("seconds", torch.zeros((), dtype=torch.float64))
        self._share = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.net.parameters(), self.learning_rate, weight_decay=self.weight_decay)

    def on_fit_start(self) -> None:
        self._clock = time.monotonic()

    def on_train_epoch_start(self) -> None:
        """Plan: the epochs that are still to come share what is left of the schedule equally."""
        done = self.current_epoch
        left = self.max_epochs - done
        if done:
            per_epoch = float(self.seconds) / done
            left = min(left, int((self.max_seconds - float(self.seconds)) / per_epoch))
        # One clock decides for every rank, or their learning rates would drift apart.
        left = max(self.trainer.strategy.broadcast(left), 1)
        self._share = (1 - float(self.progress)) / left

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        x = float(self.progress) + self._share * (batch_idx + 1) / self.trainer.num_training_batches
        rise, fall = x / _WARM_UP, 0.5 * (1 + math.cos(math.pi * (x - _WARM_UP) / (1 - _WARM_UP)))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.learning_rate * (rise if x < _WARM_UP else fall)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        image, label, *noise = batch
        if noise:
            image = redraw_noise(*noise)
        image, label = turn(image, label.long())
        loss = cross_entropy_dice(self.net(image), label)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(image))
        return loss

    def on_train_epoch_end(self) -> None:
        self.progress += self._share
        now = time.monotonic()
        self.seconds += self.trainer.strategy.broadcast(now - self._clock)
        self._clock = now
        if float(self.progress) > 1 - 1e-9:
            self.trainer.should_stop = True

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        image, label = batch
        logits = self.net(image)
        self.log("val_loss", cross_entropy_dice(logits, label.long()), sync_dist=True, batch_size=len(image))
        self.val_iou.update(logits.argmax(1), label)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val_{name}": value for name, value in self.val_iou.compute().items()})
        self.val_iou.reset()

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        image, label = batch
        self.test_iou.update(self.net(image).argmax(1), label)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_iou.compute())


class History(Callback):
    """One row of figures per epoch, kept in checkpoints, and a line in the log."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": trainer.current_epoch + 1, **figures})

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Validation runs inside the epoch: only now is the epoch's training loss known.
        row = self.rows[-1]
        row["train_loss"] = float(trainer.callback_metrics["train_loss"])
        log.info(
            "epoch %d: training loss %.3f, validation loss %.3f, macro IoU %.3f, source IoU %.3f",
            row["epoch"],
            row["train_loss"],
            row["val_loss"],
            row["val_macro_iou"],
            row["val_iou_source"],
        )


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Attributes
    ----------
    weights : state of the network, of the epoch that validates best.
    history : figures of each epoch.
    metrics : on the test set; empty where it has no objects.
    minutes : of training, all processes together.
    """

    weights: dict[str, Tensor]
    history: list[dict[str, float]]
    metrics: dict[str, float]
    minutes: float
    classes: tuple[str, ...] = CLASSES


def seed_everything(seed: int) -> None:
    """Seed all generators of random numbers that training draws from."""
    lightning.seed_everything(seed % 2**32, verbose=False)


def fit(module: Segmentation, data: CutoutData, folder: Path, precision: Precision) -> Trained:
    """Train, keep the weights that validate best, and measure these once on the test set.

    Parameters
    ----------
    folder : for checkpoints, the last two and the best; training goes on from what lies there.
    precision : of Lightning, or ``auto``.
    """
    history = History()
    best = ModelCheckpoint(folder, "best-{epoch}", monitor="val_macro_iou", mode="max", save_top_k=1)
    last = ModelCheckpoint(
        folder, "last-{epoch}", monitor="epoch", mode="max", save_top_k=2, save_on_train_epoch_end=True
    )
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=_precision() if precision == "auto" else precision,
        max_epochs=module.max_epochs,
        callbacks=[history, best, last],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data, ckpt_path=_newest(folder), weights_only=True)
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    weights = {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
    module.net.load_state_dict(weights)
    metrics: dict[str, float] = {}
    if len(data.rows["test"]):
        (result,) = trainer.test(module, data, verbose=False)
        metrics = {name: float(value) for name, value in result.items()}
    return Trained(weights, history.rows, metrics, float(module.seconds) / 60)


def _precision() -> Literal["32-true", "bf16-mixed"]:
    """bfloat16 where the hardware multiplies in it: on other processors it is slower than float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16-mixed" if supported is not None and supported() else "32-true"


def _newest(folder: Path) -> Path | None:
    """The last checkpoint that can be read; a damaged one is passed over."""
    for path in sorted(folder.glob("last-*.ckpt"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            epoch = torch.load(path, map_location="cpu", weights_only=True)["epoch"]
        except Exception as error:
            log.warning("%s cannot be read (%s); an older checkpoint is tried.", path.name, error)
            continue
        log.info("going on from %s, after epoch %d", path.name, epoch + 1)
        return path
    return None
