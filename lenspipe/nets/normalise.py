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
        image = image.float()
        image = torch.where(torch.isfinite(image), image, torch.nan)
        # A common factor brings 1e-12 as well as 1e5 into the range where float32 has all its digits.
        scale = _median(image.abs().flatten(2))
        image = image / _positive(scale)[..., None, None]
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


def _median(values: Tensor) -> Tensor:
    return torch.nanmedian(values, dim=-1).values


def _positive(scale: Tensor) -> Tensor:
    """1 where a scale is zero or unknown."""
    return torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))
