"""Physical units to numbers of order one, inside the network: files and weights stay free of flux units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MAD_TO_SIGMA = 1.4826


class Asinh(nn.Module):
    """``asinh((x - sky) / rms)`` per image and band, with sky and rms taken robustly from the image itself.

    The sky is the median of the outermost tenth of the image. The rms comes from the median of |second differences|
    along rows and columns, which neither smooth objects nor a few sharp ones move; for white noise of unit variance
    x[i-1] - 2 x[i] + x[i+1] has the variance 6. Pixels that are not finite count nowhere and become 0.
    """

    def forward(self, image: Tensor) -> Tensor:
        """(N, B, H, W) in any unit, to the same shape, f4."""
        image = _finite(image)
        edge = max(1, min(image.shape[-2:]) // 10)
        frame = torch.cat(
            [
                image[..., :edge, :].flatten(2),
                image[..., -edge:, :].flatten(2),
                image[..., edge:-edge, :edge].flatten(2),
                image[..., edge:-edge, -edge:].flatten(2),
            ],
            dim=-1,
        )
        sky = torch.nan_to_num(_median(frame))
        differences = torch.cat(
            [
                (image[..., :-2, :] - 2 * image[..., 1:-1, :] + image[..., 2:, :]).flatten(2),
                (image[..., :-2] - 2 * image[..., 1:-1] + image[..., 2:]).flatten(2),
            ],
            dim=-1,
        )
        # Blank edges filled with one value have no differences: they say nothing about the noise.
        differences = torch.where(differences == 0, torch.nan, differences.abs())
        rms = _MAD_TO_SIGMA * _median(differences) / 6**0.5
        normalised = torch.asinh((image - sky[..., None, None]) / _positive(rms)[..., None, None])
        return torch.nan_to_num(normalised)


class MinMax(nn.Module):
    """From 0 to 1 over all bands of an image together, as the reference U-Net was trained. Missing pixels become 0."""

    def forward(self, image: Tensor) -> Tensor:
        """(N, B, H, W) in any unit, to the same shape, f4."""
        return _unit_range(_finite(image, together=True), axis=1)


class Tenfold(nn.Module):
    """From 0 to the 99th percentile of each band, and what lies between the 95th and the 99th brightened tenfold.

    That is where arcs are: fainter than the lens's core, brighter than nearly all the rest. Values end at 1, and the
    core keeps the value it had. The input is never written to: done on a stored array in every epoch, as it has been,
    the brightening multiplies itself.
    """

    def forward(self, image: Tensor) -> Tensor:
        """(N, B, H, W) in any unit, to the same shape, f4."""
        image = _finite(image)
        low, high = torch.nanquantile(image.flatten(2), torch.tensor([0.95, 0.99], device=image.device), dim=-1)
        arc = (image > low[..., None, None]) & (image <= high[..., None, None])
        x = _unit_range(torch.minimum(image, high[..., None, None]), axis=2)
        return torch.where(arc, 10 * x, x).clamp(max=1)


_SCALINGS: dict[str, type[nn.Module]] = {"asinh": Asinh, "minmax": MinMax, "tenfold": Tenfold}
WORDS = {
    "asinh": "asinh((image - sky) / rms), sky and rms per image and band, taken robustly",
    "minmax": "0 to 1 over all bands of an image",
    "tenfold": "0 to 1 in each band up to the 99th percentile, what lies above the 95th brightened tenfold",
}
"""The scalings in words, for the card of the weights."""


def scaling(name: str) -> nn.Module:
    """The module of a `lenspipe.nets.config.Scaling`."""
    return _SCALINGS[name]()


def _finite(image: Tensor, together: bool = False) -> Tensor:
    """f4, NaN where not finite, over the median of its absolute values by band (or over all bands `together`).

    That common factor brings 1e-12 as well as 1e5 into the range where float32 has all its digits.
    """
    image = image.float()
    image = torch.where(torch.isfinite(image), image, torch.nan)
    scale = _positive(_median(image.abs().flatten(1 if together else 2)))
    return image / scale.reshape(*scale.shape, *[1] * (4 - scale.ndim))


def _unit_range(image: Tensor, axis: int) -> Tensor:
    """From 0 to 1 over the axes from `axis` on; 0 where there is no range or no value."""
    missing = torch.isnan(image)
    low = torch.where(missing, torch.inf, image).flatten(axis).amin(-1)
    high = torch.where(missing, -torch.inf, image).flatten(axis).amax(-1)
    shape = (*low.shape, *[1] * (4 - axis))
    return torch.nan_to_num((image - low.reshape(shape)) / _positive(high - low).reshape(shape))


def _median(values: Tensor) -> Tensor:
    return torch.nanmedian(values, dim=-1).values


def _positive(scale: Tensor) -> Tensor:
    """1 where a scale is zero or unknown."""
    return torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))
