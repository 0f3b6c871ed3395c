"""Random numbers by counting: what a candidate gets depends on its seed and how often it asked, not on its neighbours.

splitmix64 (Steele, Lea & Flood 2014, OOPSLA '14, fig. 17) of a counter, in wrapping int64 arithmetic, on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit `value`."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Counted:
    """Streams of N candidates.

    Parameters
    ----------
    seeds : (N,) int64, one for each stream.
    drawn : (N,) int64, how many numbers each has given before.
    """

    def __init__(self, seeds: Tensor, drawn: Tensor | None = None):
        self.seeds = _mixed(seeds)
        self.drawn = torch.zeros_like(seeds) if drawn is None else drawn.clone()

    def uniform(self, *shape: int) -> Tensor:
        """(N, *shape) float64 in (0, 1)."""
        count = math.prod(shape)
        ticks = self.drawn[:, None] + torch.arange(1, count + 1, device=self.seeds.device)
        self.drawn = self.drawn + count
        bits = _mixed(self.seeds[:, None] + ticks * _GAMMA)
        return ((_shifted(bits, 12).double() + 0.5) * 2.0**-52).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) float64, standard normal (Box & Muller 1958)."""
        radius, angle = self.uniform(2, *shape).unbind(1)
        return torch.sqrt(-2 * radius.log()) * torch.cos(2 * math.pi * angle)

    def order(self, *shape: int) -> Tensor:
        """(N, *shape) permutations along the last axis."""
        return self.uniform(*shape).argsort(-1)


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """z >> bits with zeros coming in from the left."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
