"""The four classes of the reference system, by thresholds on layers scaled to 0..1; its faults are mended.

Mended: the radius that parts lens from others is in one unit throughout (there, arcsec were compared with pixels); an
empty layer has no pixels (there, stretching each image made one up); the lens layer is the noiseless one, so that its
mean and scatter are not those of the noise. What stays is that thresholds in units of an image's own mean and scatter
name pixels that cannot be seen: prefer the S/N rule unless labels must be like the reference's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lenspipe.config import Config
from lenspipe.types import CLASSES


class Thresholds(Config):
    """Numbers of the rule."""

    source: float = Field(0.2, gt=0, lt=1, description="of the source layer scaled to 0..1")
    lens: float = Field(1.7, description="standard deviations above the mean of the layers of lens and others")
    lens_pixels: int = Field(20, ge=0, description="lens pixels below which the threshold is lowered")
    lens_step: float = Field(0.02, gt=0, description="of the lowering, in the layer scaled to 0..1")
    lens_floor: float = Field(0.005, gt=0, description="at which the lowering ends")
    noise: float = Field(1.8, description="standard deviations above the mean, for other objects")
    gap: float = Field(1.0, ge=0, description="pixels between the lens's radius and other objects")
    radius: float = Field(1.2, gt=0, description="of the lens at least, in half-light radii of its layer")


def label(
    source: NDArray[np.float32], lens: NDArray[np.float32], others: NDArray[np.float32], rule: Thresholds
) -> NDArray[np.uint8]:
    """(N, H, W) u1 indices into `lenspipe.types.CLASSES`, from (N, B, H, W) noiseless layers.

    The lens reaches to the farthest pixel of the source's brighter half, at least to `rule.radius` half-light radii.
    """
    return np.stack([_one(s.sum(0), g.sum(0), o.sum(0), rule) for s, g, o in zip(source, lens, others)])


def _one(
    source: NDArray[np.float32], lens: NDArray[np.float32], others: NDArray[np.float32], rule: Thresholds
) -> NDArray[np.uint8]:
    height, width = source.shape
    y, x = np.indices(source.shape)
    distance = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2)
    arcs, scene = _scaled(source), _scaled(lens + others)
    is_source = arcs > rule.source
    radius = max(distance[arcs > 0.5].max(initial=0.0), rule.radius * _half_light(lens, distance))
    least = scene.mean() + rule.lens * scene.std()
    while np.sum((scene > least) & (distance < radius)) < rule.lens_pixels and least > rule.lens_floor:
        least -= rule.lens_step
    is_lens = (scene > max(least, rule.lens_floor)) & (distance < radius)
    is_noise = (scene > scene.mean() + rule.noise * scene.std()) & (distance > radius + rule.gap) & (scene > 0)
    # Where classes overlap the larger scaled value wins; of equal ones noise, then lens.
    value = np.stack([np.where(is_source, arcs, 0), np.where(is_lens, scene, 0), np.where(is_noise, scene, 0)])
    order = [2, 1, 0]
    winner = np.array(order)[value[order].argmax(0)]
    return np.where(value.max(0) > 0, winner, CLASSES.index("background")).astype(np.uint8)


def _scaled(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """To 0..1; zeros where there is nothing."""
    low, high = float(image.min()), float(image.max())
    if high <= 0 or high == low:
        return np.zeros(image.shape)
    return np.asarray((image.astype(np.float64) - low) / (high - low))


def _half_light(image: NDArray[np.float32], distance: NDArray[np.float64]) -> float:
    """Radius in pixels about the centre that holds half of the flux, 0 for an empty layer."""
    order = np.argsort(distance, axis=None)
    grown = np.cumsum(image.ravel()[order], dtype=np.float64)
    if grown[-1] <= 0:
        return 0.0
    return float(distance.ravel()[order][np.searchsorted(grown, grown[-1] / 2)])
