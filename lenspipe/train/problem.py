"""What the engine trains: a network with a loss that is a function of sums over objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lenspipe.nets.base import Segmenter, probabilities
from lenspipe.nets.estimates import Coverage, log_density
from lenspipe.nets.estimator import Estimator
from lenspipe.nets.losses import Loss
from lenspipe.nets.metrics import CalibrationError, Scores


class Problem(nn.Module, ABC):
    """A network and what it is to learn.

    The loss is a function of quantities that add up over objects. Ranks add theirs and then take the loss, so that it
    is that of the whole batch, however it is shared out.

    Attributes
    ----------
    net : its weights are what comes out of training.
    monitor : the figure of `figures` by which the best epoch is chosen; higher is better.
    """

    net: nn.Module
    monitor: str

    @abstractmethod
    def forward(self, batch: Any) -> Tensor:
        """(K,) sums over the objects of `batch`."""

    @abstractmethod
    def loss(self, sums: Tensor) -> Tensor:
        """The loss, a scalar, of (K,) sums over all objects of a step."""

    @abstractmethod
    def measure(self, batch: Any) -> Tensor:
        """What `forward` returns, after taking `batch` into `figures`."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """Figures of all that was measured since the last call, over all ranks."""


class Segmentation(Problem):
    """The pixels' classes; chosen by the mean IoU of the classes.

    Parameters
    ----------
    criterion : loss of each of the network's outputs.
    """

    monitor = "macro_iou"

    def __init__(self, net: Segmenter, criterion: Loss):
        super().__init__()
        self.net: Segmenter = net
        self.criterion = criterion
        self.scores, self.calibration = Scores(), CalibrationError()

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        return self.net.supervise(image, label, self.criterion)[1]

    def loss(self, sums: Tensor) -> Tensor:
        return self.net.total_loss(sums, self.criterion)

    def measure(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        logits, sums = self.net.supervise(image, label, self.criterion)
        self.scores.update(logits.argmax(1), label)
        self.calibration.update(probabilities(logits), label)
        return sums

    def figures(self) -> dict[str, float]:
        metrics = (self.scores, self.calibration)
        found = {name: float(value) for metric in metrics for name, value in metric.compute().items()}
        for metric in metrics:
            metric.reset()
        return found


class Estimation(Problem):
    """The deflector's parameters, by maximum likelihood of their Gaussian; chosen by that likelihood.

    Parameters
    ----------
    masks : (N, B, H, W) images to (N, C, H, W) class probabilities, for a network that sees these; it learns nothing.
    """

    monitor = "log_density"

    def __init__(self, net: Estimator, masks: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.net: Estimator = net
        # In a list, torch does not see it: it is neither trained nor kept.
        self._masks = [masks]
        self.coverage = Coverage()

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self._sums(*self._answer(batch), batch[1])

    def loss(self, sums: Tensor) -> Tensor:
        return -sums[1] / sums[0]

    def measure(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        mean, factor = self._answer(batch)
        self.coverage.update(mean, factor, batch[1])
        return self._sums(mean, factor, batch[1])

    def figures(self) -> dict[str, float]:
        found = {name: float(value) for name, value in self.coverage.compute().items()}
        self.coverage.reset()
        return found

    def _answer(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        image, (masks,) = batch[0], self._masks
        answer: tuple[Tensor, Tensor] = self.net(image, None if masks is None else masks(image))
        return answer

    def _sums(self, mean: Tensor, factor: Tensor, truth: Tensor) -> Tensor:
        with torch.autocast(mean.device.type, enabled=False):
            return torch.stack([mean.new_tensor(float(len(truth))), log_density(truth, mean, factor).sum()])


class Total(torch.autograd.Function):
    """The sum over ranks. Every rank takes the same loss of it, and DDP averages gradients over ranks: hence the factor
    in the backward pass."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, ranks: int) -> Tensor:
        ctx.ranks = ranks
        total = sums.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.ranks, None
