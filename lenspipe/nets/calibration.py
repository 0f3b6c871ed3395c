"""Probabilities that mean what they say: one temperature, fitted on the validation objects (Guo et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from scipy import optimize
from torch import Tensor
from torch.nn import functional as F

from lenspipe.nets.metrics import SURE
from lenspipe.types import CLASSES

_PIXELS = 2_000_000
"""At most so many are fitted: one number needs no more."""
_TEMPERATURES = (0.1, 10.0)


def fit_temperature(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The T for which softmax(log p / T) gives the labels most probability; 1 where there is nothing to learn from.

    Only pixels that are not surely background count: elsewhere nobody reads the probabilities.

    Parameters
    ----------
    pairs : (N, C, H, W) probabilities as they are used (averaged over flips or not) and (N, H, W) class indices.
    """
    logs, labels = [], []
    for probability, label in pairs:
        chosen = probability[:, CLASSES.index("background")] < SURE
        logs.append(probability.movedim(1, -1)[chosen].clamp(min=1e-30).log())
        labels.append(label[chosen].long())
    log_p, truth = torch.cat(logs), torch.cat(labels)
    if not len(truth):
        return 1.0
    step = -(-len(truth) // _PIXELS)
    log_p, truth = log_p[::step].double(), truth[::step]

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(log_p / math.exp(log_temperature), truth))

    # The loss is convex in 1 / T, so it has one minimum in log T.
    low, high = (math.log(t) for t in _TEMPERATURES)
    return math.exp(optimize.minimize_scalar(loss, bounds=(low, high), method="bounded").x)
