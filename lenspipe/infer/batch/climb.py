"""`lenspipe.infer.optimise.levenberg_marquardt` of many candidates at once, step for step the same rules.

Legend: N candidates, S starts of each, P parameters, R residuals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lenspipe.infer.batch.problems import Problems
from lenspipe.infer.optimise import FIRST_DAMPING, LONGEST, SLOW, STEP, TRIALS


def climb(problems: Problems, start: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Where (N, S, P) `start` end, and their costs (N, S).

    Starts that rest are computed along, and their steps thrown away, until all of them do.
    """
    u = start.clamp(problems.lower, problems.upper)
    r = problems.residuals(u)
    cost = 0.5 * r.square().sum(-1)
    damping = torch.full_like(cost, FIRST_DAMPING)
    idle = torch.zeros_like(cost, dtype=torch.long)
    for _ in range(iterations):
        active = idle < 3
        if not bool(active.any()):
            break
        curvature, gradient = _normal_equations(problems, u, r)
        held = ((u <= problems.lower) & (gradient > 0)) | ((u >= problems.upper) & (gradient < 0))
        gradient = gradient.masked_fill(held, 0)
        curvature = curvature.masked_fill(held[..., :, None] | held[..., None, :], 0)
        diagonal = curvature.diagonal(dim1=-2, dim2=-1)
        gained = torch.zeros_like(cost)
        pending = active
        for _ in range(TRIALS):
            damped = curvature + torch.diag_embed(diagonal * damping[..., None] + 1e-9)
            step, _ = torch.linalg.solve_ex(damped, gradient)
            trial = (u - step.nan_to_num().clamp(-LONGEST, LONGEST)).clamp(problems.lower, problems.upper)
            r_trial = problems.residuals(trial)
            cost_trial = 0.5 * r_trial.square().sum(-1)
            better = pending & (cost_trial < cost)
            gained = torch.where(better, cost - cost_trial, gained)
            u, r = torch.where(better[..., None], trial, u), torch.where(better[..., None], r_trial, r)
            cost = torch.where(better, cost_trial, cost)
            damping = torch.where(pending, damping * torch.where(better, 0.2, 8.0), damping)
            pending = pending & ~better
        damping = damping.clamp(1e-8, 1e8)
        enough = (SLOW * (cost - cost.amin(-1, keepdim=True))).clamp(min=tolerance)
        idle = torch.where(active, torch.where(gained < enough, idle + 1, 0), idle)
    return u, cost


def _normal_equations(problems: Problems, u: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """J^T J (N, S, P, P) and J^T r (N, S, P) by differences away from the bounds."""
    N, S, P = u.shape
    step = torch.where(u + STEP > problems.upper, -STEP, STEP)
    curvature, gradient = u.new_empty(N, S, P, P), u.new_empty(N, S, P)
    # Some starts at a time: the Jacobians of all at once would fill the memory for large images.
    at_once = max(1, int(problems.stack.memory / (N * P * r.shape[-1] * r.element_size() * 2)))
    for some in torch.arange(S, device=u.device).split(at_once):
        shifted = u[:, some, None] + torch.diag_embed(step[:, some])
        moved = problems.residuals(shifted.flatten(1, 2)).unflatten(1, (len(some), P))
        jacobian = (moved - r[:, some, None]) / step[:, some, :, None]
        curvature[:, some] = jacobian @ jacobian.mT
        gradient[:, some] = (jacobian @ r[:, some, :, None])[..., 0]
    return curvature, gradient
