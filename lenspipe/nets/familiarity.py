"""How much an image is like those that a network was trained on: a p-value for each candidate.

The network's deepest feature maps, averaged over the image, are compared with their distribution over the training
objects by Mahalanobis' distance (Lee et al. 2018). The share of validation objects that lie at least as far off is a
conformal p-value (Bates et al. 2023): of images from the training's own population at most a part p scores p or less,
whatever the network and however the features are distributed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PREFIX = "familiarity."


@dataclass(frozen=True)
class Familiarity:
    """What the training images were like.

    Attributes
    ----------
    mean : (F,) f8 of the training objects' features.
    precision : (F, F) f8, inverse of their shrunk covariance.
    distances : (M,) f8, those of the validation objects, ascending.
    """

    mean: Tensor
    precision: Tensor
    distances: Tensor

    @classmethod
    def fit(cls, training: Tensor, validation: Tensor) -> Familiarity:
        """From (N, F) and (M, F) features of objects; those of the one set are not in the other."""
        training, validation = training.double(), validation.double()
        mean = training.mean(0)
        precision = torch.linalg.inv(_shrunk_covariance(training - mean))
        found = cls(mean, precision, torch.empty(0))
        return cls(mean, precision, found.distance(validation).sort().values)

    def distance(self, features: Tensor) -> Tensor:
        """(N, F) to (N,) Mahalanobis distances, squared."""
        off = features.double() - self.mean
        return torch.einsum("nf,fg,ng->n", off, self.precision, off)

    def p_value(self, features: Tensor) -> Tensor:
        """(N, F) to (N,) in (0, 1]: near 0, nothing like it was trained on."""
        nearer = torch.searchsorted(self.distances, self.distance(features))
        at_least = len(self.distances) - nearer
        return (1 + at_least) / (1 + len(self.distances))

    def tensors(self) -> dict[str, Tensor]:
        """To be kept beside the network's own."""
        return {_PREFIX + name: getattr(self, name) for name in ("mean", "precision", "distances")}


def split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Familiarity | None]:
    """The network's own tensors, and the `Familiarity` kept beside them if there is one."""
    kept = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    own = {name: value for name, value in tensors.items() if not name.startswith(_PREFIX)}
    return own, Familiarity(**kept) if kept else None


def _shrunk_covariance(centred: Tensor) -> Tensor:
    """(N, F) to (F, F): the sample covariance drawn to its own diagonal (Schaefer & Strimmer 2005, table 2, target D),
    so that it can be inverted however few objects there are."""
    n = len(centred)
    variance = centred.square().mean(0)
    # Features that are the same everywhere say nothing; a floor keeps them finite and of little weight.
    scale = variance.clamp(min=1e-12 * max(float(variance.max()), 1e-300)).sqrt()
    z = centred / scale
    correlation = z.T @ z / n
    # Variance of each correlation's estimate: that of the products over the objects.
    uncertainty = ((z.square().T @ z.square()) / n - correlation.square()) / max(n - 1, 1)
    off = ~torch.eye(len(correlation), dtype=torch.bool)
    total = correlation[off].square().sum()
    weight = float((uncertainty[off].sum() / total).clamp(1e-3, 1)) if float(total) > 0 else 1.0
    shrunk = torch.where(off, (1 - weight) * correlation, torch.ones_like(correlation))
    return shrunk * scale[:, None] * scale
