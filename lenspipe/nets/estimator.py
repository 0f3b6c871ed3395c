"""A network that says where the deflector is and how strong, and how sure it is of that: from image to a Gaussian."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lenspipe.errors import LenspipeError
from lenspipe.nets.config import EstimatorConfig
from lenspipe.nets.normalise import scaling
from lenspipe.types import CLASSES, DEFLECTOR

_P = len(DEFLECTOR)
_WIDEST = 8.0
"""Largest |ln| of a width over that of the training set: it bends towards it, so that no gradient explodes."""
_PIXELS = 8.0
"""One unit of the coordinates that the layers are shown."""


class Estimator(nn.Module):
    """An EfficientNet of timm and a head with the mean and the Cholesky factor of a precision matrix.

    It looks at a square of fixed size in the middle of the image, so that neither its field of view nor its calibration
    depends on how large cutouts are. Two further channels hold the pixels' own coordinates (Liu et al. 2018), for the
    features are averaged over the square. Groups of eight channels are normalised (Wu & He 2018), within one image.

    Parameters
    ----------
    config : with `masks` and `window` chosen.
    """

    body: Any
    shift: Tensor
    width: Tensor

    def __init__(self, config: EstimatorConfig, n_bands: int):
        super().__init__()
        import timm

        if config.masks is None or config.window is None:
            raise TypeError("masks and window are chosen before the network is built")
        if not timm.is_model(config.name):
            raise LenspipeError(
                f"net.name: timm has no {config.name!r}; efficientnet_b0 and tf_efficientnetv2_b0 are two."
            )
        self.window, self.masks = config.window, config.masks
        self.normalise = scaling(config.scaling)
        self.body = timm.create_model(
            config.name,
            pretrained=False,
            in_chans=n_bands + 2 + (len(CLASSES) if config.masks else 0),
            num_classes=0,
        )
        _by_groups(self.body)
        self.body.conv_stem.stride = (config.stem_stride, config.stem_stride)
        self.drop = nn.Dropout(config.drop_rate)
        self.head = nn.Linear(self.body.num_features, 2 * _P + _P * (_P - 1) // 2)
        # It begins with what the training set is like: mean 0 and width 1 in its units, nothing correlated.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("shift", torch.zeros(_P))
        self.register_buffer("width", torch.ones(_P))

    def learn_units(self, truth: Tensor) -> None:
        """Take mean and widths of the answers from the (N, 7) true parameters of the training objects.

        All turns of an image are equally likely: of all but the radius the mean is 0, and components have one width.
        """
        place = {name: i for i, name in enumerate(DEFLECTOR)}
        second = truth.double().square().mean(0)
        for pair in (("center_x", "center_y"), ("e1", "e2"), ("gamma1", "gamma2")):
            rows = [place[name] for name in pair]
            self.width[rows] = second[rows].mean().sqrt().clamp(min=1e-3).float()
        radius = truth[:, place["theta_E"]].double()
        self.shift[place["theta_E"]] = radius.mean().float()
        self.width[place["theta_E"]] = radius.std(correction=0).clamp(min=1e-3).float()

    def forward(self, image: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The Gaussian of each image.

        Parameters
        ----------
        image : (N, B, H, W) in physical units.
        masks : (N, C, H, W) class probabilities, if the network was built for them.

        Returns
        -------
        mean : (N, 7) f4, ordered as `lenspipe.types.DEFLECTOR`, lengths in pixels, theta_E by its natural logarithm.
        factor : (N, 7, 7) f4, W of the precision matrix W^T W; lower triangular, its diagonal positive.
        """
        features = self.body(self.prepare(image, masks))
        with torch.autocast(image.device.type, enabled=False):
            raw = self.head(self.drop(features.float()))
            mean, sizes, below = raw.split([_P, _P, raw.shape[1] - 2 * _P], dim=1)
            # W = D (1 + N), D diagonal, N strictly lower: each parameter's deviation given those before it and its
            # precision then (Pourahmadi 1999). Any numbers make a Gaussian, and no matrix has to be solved.
            scale = torch.exp(_WIDEST * torch.tanh(sizes / _WIDEST))
            rows, columns = torch.tril_indices(_P, _P, -1, device=raw.device)
            unit = (
                torch.eye(_P, device=raw.device)
                .repeat(len(raw), 1, 1)
                .index_put((torch.arange(len(raw), device=raw.device)[:, None], rows, columns), below)
            )
            return self.shift + self.width * mean, scale[:, :, None] * unit / self.width

    def prepare(self, image: Tensor, masks: Tensor | None) -> Tensor:
        """The (N, channels, h, w) input of the layers: normalised image, coordinates, masks."""
        if self.masks and masks is None:
            raise TypeError("this network sees masks too")
        with torch.autocast(image.device.type, enabled=False):
            image = _cut(image, self.window)
            x: Tensor = _grown(self.normalise(image), self.window)
        parts = [x, *_coordinates(x)]
        if self.masks and masks is not None:
            parts.append(_grown(_cut(masks.to(x.dtype), self.window), self.window))
        return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)


def _by_groups(module: nn.Module) -> None:
    """Replace every batch normalisation of timm's by one over groups of eight channels, or as many as divide."""
    from timm.layers import BatchNormAct2d, GroupNormAct

    for name, child in module.named_children():
        if isinstance(child, BatchNormAct2d):
            grouped = GroupNormAct(child.num_features, group_size=math.gcd(8, child.num_features), apply_act=False)
            grouped.act = child.act
            setattr(module, name, grouped)
        else:
            _by_groups(child)


def _side(n: int, window: int) -> int:
    """`window` or one more, so that the middle of `n` pixels stays where it is."""
    return window + (n - window) % 2


def _cut(x: Tensor, window: int) -> Tensor:
    """The middle, no more than a window high and wide."""
    for axis in (-2, -1):
        n = x.shape[axis]
        spare = max(n - _side(n, window), 0) // 2
        x = x.narrow(axis, spare, n - 2 * spare)
    return x


def _grown(x: Tensor, window: int) -> Tensor:
    """Zeros around what is smaller than the window."""
    margins = [max(_side(n, window) - n, 0) // 2 for n in (x.shape[-1], x.shape[-2])]
    return F.pad(x, [margin for margin in margins for _ in range(2)])


def _coordinates(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 1, h, w) each: x and y of the pixels from the middle."""
    n, _, height, width = x.shape
    rows, columns = ((torch.arange(k, dtype=x.dtype, device=x.device) - (k - 1) / 2) / _PIXELS for k in (height, width))
    shape = (n, 1, height, width)
    return columns[None, None, None].expand(shape), rows[None, None, :, None].expand(shape)
