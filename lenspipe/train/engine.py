"""The training loop, on Lightning Fabric: any `Problem`, one process or several, resumed in mid-epoch.

Lightning's own Trainer takes up an epoch that was cut short at its beginning or with other batches. Here the loop is
written out, so that a training that was killed goes on to the same weights as one that was not: batches, turns and
noise follow from seed, epoch and object, the network's own random numbers from seed, epoch, step and rank, and all else
is in the checkpoint.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lenspipe.errors import Interrupted, LenspipeError
from lenspipe.io.atomic import replacing
from lenspipe.nets import compat  # noqa: F401  (before lightning)
from lenspipe.ranks import Ranks
from lenspipe.train.problem import Problem, Total

from lightning.fabric import Fabric  # isort: skip
from lightning.fabric.plugins.environments import ClusterEnvironment  # isort: skip
from lightning.fabric.strategies import DDPStrategy  # isort: skip

log = logging.getLogger(__name__)
Precision = Literal["auto", "32-true", "bf16-mixed"]
_WARM_UP = 0.08
"""Part of the training during which the learning rate rises."""
_KEPT = 2


class Data(Protocol):
    """Batches of a training: this rank's share of them."""

    @property
    def steps(self) -> int:
        """Of an epoch."""

    def training(self, epoch: int, first: int) -> DataLoader[Any]:
        """Of one epoch, from step `first` on."""

    def evaluation(self, part: str) -> DataLoader[Any] | None:
        """Of ``validation`` or ``test``; None where no rank has any."""


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes
    ----------
    learning_rate : at its highest; it rises and then falls to zero.
    max_epochs, max_minutes : whichever comes first. Each epoch plans how many more there is time for.
    checkpoint_minutes : between checkpoints in the midst of an epoch; there is one at the end of each epoch too.
    """

    learning_rate: float
    weight_decay: float
    max_epochs: int
    max_minutes: float
    seed: int
    precision: Precision = "auto"
    checkpoint_minutes: float = 5.0
    tensorboard: bool = False


@dataclass
class State:
    """How far a training is: all of a checkpoint but the weights and the optimiser.

    Attributes
    ----------
    epoch, step : the next to be done.
    progress : part of the schedule done when this epoch began; `share` is what the epoch takes of it.
    seconds : of all processes together, one after the other; `waited` of these for input.
    losses : of each step.
    history : figures of each epoch.
    """

    epoch: int = 0
    step: int = 0
    progress: float = 0.0
    share: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    best: float = -math.inf
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.progress > 1 - 1e-9


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Attributes
    ----------
    weights : state of the network, of the epoch that validates best.
    losses : of each step.
    history : figures of each epoch.
    metrics : on the test set; empty where it has no objects.
    minutes : of training, all processes together.
    input_wait : part of that time in which the first rank waited for input.
    """

    weights: dict[str, Tensor]
    losses: list[float]
    history: list[dict[str, float]]
    metrics: dict[str, float]
    minutes: float
    input_wait: float


def fit(problem: Problem, data: Data, folder: Path, options: Options, ranks: Ranks) -> Trained:
    """Train, keep the weights that validate best, and measure these once on the test set.

    Every rank calls this with its own share of the same data.

    Parameters
    ----------
    folder : for checkpoints, the last two and the best, and for figures while it runs; training goes on from what lies
        there.

    Raises
    ------
    Interrupted : SIGTERM or SIGUSR1 came; a checkpoint was written first.
    LenspipeError : the loss is not a number any more.
    """
    return _Loop(problem, data, folder, options, ranks).run()


class _Loop:
    def __init__(self, problem: Problem, data: Data, folder: Path, options: Options, ranks: Ranks):
        self.problem, self.data, self.folder, self.options, self.ranks = problem, data, folder, options, ranks
        self.fabric = _fabric(ranks, options.precision)
        if ranks.size > 1 and self.fabric.device.type == "cuda":
            self.problem = torch.nn.SyncBatchNorm.convert_sync_batchnorm(problem)
        parameters = self.problem.net.parameters()
        optimizer = torch.optim.AdamW(parameters, options.learning_rate, weight_decay=options.weight_decay)
        self.model, self.optimizer = self.fabric.setup(self.problem, optimizer)
        self.state = State()
        self.pending: list[Tensor] = []  # losses that are still on the device
        self.clock = self.saved = time.monotonic()
        self.signalled = False

    def run(self) -> Trained:
        if self.ranks.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._take_up(self._agreed(_newest(self.folder) if self.ranks.rank == 0 else None))
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            live = stack.enter_context(_live(self)) if self.ranks.rank == 0 else None
            while not self.state.ended and self.state.epoch < self.options.max_epochs:
                self._epoch(live)
        best = torch.load(self.folder / "best.ckpt", map_location="cpu", weights_only=True)["net"]
        self.problem.net.load_state_dict(best)
        loader = self.data.evaluation("test")
        metrics = self._evaluate(loader)[1] if loader is not None else {}
        state = self.state
        wait = state.waited / max(state.seconds, 1e-9)
        return Trained(best, state.losses, state.history, metrics, state.seconds / 60, wait)

    # -- an epoch -----------------------------------------------------------------------------------------------

    def _epoch(self, live: _Live | None) -> None:
        state = self.state
        if state.step == 0:
            state.share = (1 - state.progress) / self._epochs_left()
        self.model.train()
        batches = iter(self.data.training(state.epoch, state.step))
        while state.step < self.data.steps:
            began = time.monotonic()
            batch = self.fabric.to_device(next(batches))
            state.waited += time.monotonic() - began
            self._step(batch)
            state.step += 1
            if live is not None:
                live.step(state)
            self._look_around()
        del batches
        losses = self._collected()[-self.data.steps :]
        loss, figures = self._evaluate(self.data.evaluation("validation"))
        self._tick()
        state.epoch, state.step, state.progress = state.epoch + 1, 0, state.progress + state.share
        named = {f"val_{name}": value for name, value in figures.items()}
        row = {"epoch": state.epoch, "train_loss": float(np.mean(losses)), "val_loss": loss, **named}
        state.history.append({**row, "seconds": round(state.seconds, 3)})
        better = figures[self.problem.monitor] > state.best
        state.best = max(state.best, figures[self.problem.monitor])
        if self.ranks.rank == 0:
            if better:
                self._write("best.ckpt", {"net": self.problem.net.state_dict(), "epoch": state.epoch})
            self._save()
            write_csv(self.folder / "metrics.csv", state.history)
            if live is not None:
                live.epoch(state)

    def _step(self, batch: Any) -> None:
        state, options = self.state, self.options
        done = state.progress + state.share * (state.step + 1) / self.data.steps
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * _rise_and_fall(done)
        torch.manual_seed(_seed(options.seed, state.epoch, state.step, self.ranks.rank))
        self.optimizer.zero_grad()
        sums = self.model(batch)
        loss = self.problem.loss(Total.apply(sums, self.ranks.size) if self.ranks.size > 1 else sums)
        self.fabric.backward(loss)
        self.optimizer.step()
        self.pending.append(loss.detach())

    def _epochs_left(self) -> int:
        """Epochs that are still to come, this one among them: they share what is left of the schedule equally."""
        state, left = self.state, self.options.max_epochs - self.state.epoch
        if state.epoch:
            self._tick()
            per_epoch = state.seconds / state.epoch
            left = min(left, int((60 * self.options.max_minutes - state.seconds) / per_epoch))
        # One clock decides for every rank, or their learning rates would drift apart.
        return max(int(self._agreed(left)), 1)

    def _evaluate(self, loader: DataLoader[Any] | None) -> tuple[float, dict[str, float]]:
        """Loss and figures over all objects of `loader`, on all ranks together."""
        self.problem.eval()
        total: Tensor | None = None
        with torch.inference_mode(), self.fabric.autocast():
            for batch in () if loader is None else loader:
                sums = self.problem.measure(self.fabric.to_device(batch)).double()
                total = sums if total is None else total + sums
            if self.ranks.size > 1:
                (length,) = self._highest([0 if total is None else len(total)])
                if total is None:
                    total = self.fabric.to_device(torch.zeros(int(length), dtype=torch.float64))
                torch.distributed.all_reduce(total)
            assert total is not None
            return float(self.problem.loss(total)), self.problem.figures()

    # -- between steps ------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Write a checkpoint where it is time for one, or where some rank was asked to end; then all of them end."""
        due = time.monotonic() - self.saved > 60 * self.options.checkpoint_minutes
        ends, due = (bool(flag) for flag in self._highest([self.signalled, due and self.ranks.rank == 0]))
        if not ends and not due:
            return
        self._tick()
        self._collected()
        if self.ranks.rank == 0:
            self._save()
        self.saved = time.monotonic()
        if ends:
            if self.ranks.size > 1:
                torch.distributed.barrier()
            raise Interrupted(f"training was asked to end in epoch {self.state.epoch + 1}; it goes on from there")

    def _collected(self) -> list[float]:
        """Losses of all steps, in memory."""
        if self.pending:
            new = torch.stack(self.pending).float().tolist()
            self.pending.clear()
            if not np.isfinite(new).all():
                epoch = self.state.epoch + 1
                raise LenspipeError(f"train: the loss is no number in epoch {epoch}; a lower learning_rate may help.")
            self.state.losses += new
        return self.state.losses

    def _tick(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = now

    def _agreed(self, value: Any) -> Any:
        """The first rank's."""
        if self.ranks.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def _highest(self, values: Sequence[float]) -> list[float]:
        """The highest of each value over the ranks."""
        if self.ranks.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return [float(value) for value in tensor]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGUSR1 end training after the step under way, with a checkpoint."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_: object) -> None:
            self.signalled = True

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _save(self) -> None:
        state = self.state
        content = {
            "problem": self.problem.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(state),
        }
        self._write(f"last-{state.epoch:06d}-{state.step:08d}.ckpt", content)
        for old in _checkpoints(self.folder)[_KEPT:]:
            old.unlink()
        self.saved = time.monotonic()

    def _write(self, name: str, content: dict[str, Any]) -> None:
        with replacing(self.folder / name) as temp:
            torch.save(content, temp)

    def _take_up(self, path: Path | None) -> None:
        if path is None:
            return
        found = torch.load(path, map_location="cpu", weights_only=True)
        self.problem.load_state_dict(found["problem"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.state = State(**found["state"])
        if self.ranks.rank == 0:
            log.info("going on from %s", path.name)


def _newest(folder: Path) -> Path | None:
    """The last checkpoint that can be read; a damaged one is passed over."""
    for path in _checkpoints(folder):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file raises many kinds
            log.warning("%s cannot be read (%s); an older checkpoint is tried.", path.name, error)
            continue
        return path
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted(folder.glob("last-*.ckpt"), reverse=True)


def _rise_and_fall(done: float) -> float:
    """The learning rate over its highest, when this part of the schedule is done."""
    if done < _WARM_UP:
        return done / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence([abs(number) for number in numbers]).generate_state(1, np.uint64)[0] >> 1)


# -- where it runs ----------------------------------------------------------------------------------------------


def _fabric(ranks: Ranks, precision: Precision) -> Fabric:
    chosen: Any = _precision() if precision == "auto" else precision
    # The weights of 1 x 1 convolutions, whose layout has two names: DDP copies these few.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    gpus = torch.cuda.device_count()
    where: Any = {"accelerator": "cuda", "devices": [ranks.local_rank % gpus]} if gpus else {"accelerator": "cpu"}
    # Each rank is a node of one device: nodes need not be alike, nor bound to their GPUs in the same way.
    fabric = Fabric(
        **{"devices": 1, **where},
        num_nodes=ranks.size,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if ranks.size > 1 else "auto",
        precision=chosen,
        plugins=[_Launched(ranks)],
    )
    fabric.launch()
    return fabric


class _Launched(ClusterEnvironment):
    """Tells Fabric of the ranks that are there already."""

    def __init__(self, ranks: Ranks):
        self._ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._ranks.size

    def set_world_size(self, size: int) -> None: ...

    def global_rank(self) -> int:
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None: ...

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self._ranks.rank


def _precision() -> Literal["32-true", "bf16-mixed"]:
    """bfloat16 where the hardware multiplies in it: on other processors it is slower than float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16-mixed" if supported is not None and supported() else "32-true"


# -- what people see --------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Figures, one row each, replacing what was there."""
    with replacing(path) as temp, temp.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def _live(loop: _Loop) -> Iterator[_Live]:
    """A progress bar where there is a terminal, and TensorBoard's files where they are wanted."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # While a stage runs stderr is its log.
    terminal = sys.__stderr__ if sys.__stderr__ is not None and sys.__stderr__.isatty() else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(file=terminal), transient=True) if terminal else None
    writer = _writer(loop.folder / "tensorboard", loop.state) if loop.options.tensorboard else None
    with bar or nullcontext():
        try:
            yield _Live(loop, bar, writer)
        finally:
            if writer is not None:
                writer.close()


class _Live:
    def __init__(self, loop: _Loop, bar: Any, writer: Any):
        self._loop, self._bar, self._writer = loop, bar, writer
        self._task = bar.add_task("epoch 1", total=loop.data.steps) if bar else None

    def step(self, state: State) -> None:
        if self._bar:
            left = f"epoch {state.epoch + 1} of {state.epoch + round((1 - state.progress) / state.share)}"
            self._bar.update(self._task, completed=state.step, description=left)

    def epoch(self, state: State) -> None:
        row = state.history[-1]
        log.info("epoch %d: %s", row["epoch"], ", ".join(f"{k} {v:.3f}" for k, v in row.items() if k != "epoch"))
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(name, value, state.epoch)
            steps = self._loop.data.steps
            for number in range((state.epoch - 1) * steps, state.epoch * steps):
                self._writer.add_scalar("loss", state.losses[number], number + 1)
            self._writer.flush()


def _writer(folder: Path, state: State) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise LenspipeError("train.tensorboard needs tensorboard: pip install 'lenspipe[tensorboard]'.") from None
    return SummaryWriter(str(folder), purge_step=len(state.losses) + 1)
