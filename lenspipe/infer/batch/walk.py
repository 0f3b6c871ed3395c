"""The sampler's steps for many candidates at once: the moves of `lenspipe.infer.sample`, on the device.

Legend: N candidates, C ensembles, T steps, K walkers, P parameters, half = K / 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lenspipe.infer.batch.problems import Problems
from lenspipe.infer.batch.random import Counted
from lenspipe.infer.sample import SHARES

_JITTER = 1e-5
"""Of differential evolution's factor, relative: emcee's."""


def walk(
    problems: Problems, u: Tensor, values: Tensor, mean: Tensor, root: Tensor, random: Counted, steps: int
) -> tuple[Tensor, Tensor]:
    """Ensembles moved on from `u` (N, C, K, P), where the log posterior is `values` (N, C, K).

    A step moves a random half of each ensemble against the other half, then the other (Foreman-Mackey et al. 2013).
    Each ensemble draws its move anew at every step: differential evolution (ter Braak 2006), the same with a factor
    of 1, or Crank-Nicolson about the Gaussian with `mean` (N, P) and Cholesky `root` (N, P, P).

    Returns
    -------
    (N, T, C, K, P) and (N, T, C, K), on the device until all steps are made.
    """
    N, C, K, P = u.shape
    half = K // 2
    inverse = torch.linalg.inv_ex(root).inverse
    mean = mean[:, None, None]

    def energy(offset: Tensor) -> Tensor:
        return 0.5 * (offset.flatten(1, 2) @ inverse.mT).square().sum(-1).view(N, C, half)

    def rows(index: Tensor) -> Tensor:
        return index[..., None].expand(-1, -1, -1, P)

    places, levels = [], []
    for _ in range(steps):
        kind = random.uniform(C)[..., None]
        jump, forget = kind >= SHARES[0], kind >= SHARES[0] + SHARES[1]
        halves = random.order(C, K).split(half, dim=-1)
        for active, other in (halves, halves[::-1]):
            own, others = u.gather(2, rows(active)), u.gather(2, rows(other))
            first = (random.uniform(C, half) * half).long()
            second = (random.uniform(C, half) * (half - 1)).long()
            second = second + (second >= first)
            factor = torch.where(jump, 1.0, 2.38 / math.sqrt(2 * P)) * (1 + _JITTER * random.normal(C, half))
            evolved = own + factor[..., None] * (others.gather(2, rows(first)) - others.gather(2, rows(second)))
            share = 0.5 + 0.5 * random.uniform(C, half, 1)
            before = own - mean
            fresh = (random.normal(C, half, P).flatten(1, 2) @ root.mT).view_as(own)
            after = torch.sqrt(1 - share**2) * before + share * fresh
            proposal = torch.where(forget[..., None], mean + after, evolved)
            weight = torch.where(forget, energy(after) - energy(before), 0.0)
            found = problems.log_posterior(proposal.flatten(1, 2)).view(N, C, half)
            level = values.gather(2, active)
            taken = weight + found - level > random.uniform(C, half).log()
            u = u.scatter(2, rows(active), torch.where(taken[..., None], proposal, own))
            values = values.scatter(2, active, torch.where(taken, found, level))
        places.append(u)
        levels.append(values)
    return torch.stack(places, 1), torch.stack(levels, 1)
