"""`lenspipe.infer.optimise.levenberg_marquardt` of many candidates at once, step for step the same rules.

Legend: N candidates, S starts of each, P parameters, R residuals; S' S'' starts that are still computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lenspipe.infer.batch.problems import Problems
from lenspipe.infer.optimise import FIRST_DAMPING, LONGEST, SLOW, STEP, TRIALS


def climb(problems: Problems, start: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where (N, S, P) `start` end, their costs (N, S), and each candidate's evaluations (N,).

    Starts that rest are left out as far as all candidates can spare as many. That asks the device once a trial how many
    starts there are; a trial takes many evaluations.
    """
    u = start.clamp(problems.lower, problems.upper)
    r = problems.residuals(u)
    cost = 0.5 * r.square().sum(-1)
    damping = torch.full_like(cost, FIRST_DAMPING)
    idle = torch.zeros_like(cost, dtype=torch.long)
    evaluations = torch.full_like(idle[:, 0], u.shape[1])
    for _ in range(iterations):
        active = idle < 3
        some = _places(active)
        if not some.shape[1]:
            break
        here, level, pending = _taken(u, some), _taken(cost, some), _taken(active, some)
        curvature, gradient = _normal_equations(problems, here, _taken(r, some))
        evaluations = evaluations + here.shape[-1] * pending.sum(-1)
        held = ((here <= problems.lower) & (gradient > 0)) | ((here >= problems.upper) & (gradient < 0))
        gradient = gradient.masked_fill(held, 0)
        curvature = curvature.masked_fill(held[..., :, None] | held[..., None, :], 0)
        gained = torch.zeros_like(level)
        for _ in range(TRIALS):
            few = _places(pending)
            if not few.shape[1]:
                break
            at, tried = some.gather(1, few), _taken(pending, few)
            damped, slope, stiffness = _taken(curvature, few), _taken(gradient, few), _taken(damping, at)
            extra = damped.diagonal(dim1=-2, dim2=-1) * stiffness[..., None] + 1e-9
            step, _ = torch.linalg.solve_ex(damped + torch.diag_embed(extra), slope)
            trial = (_taken(u, at) - step.nan_to_num().clamp(-LONGEST, LONGEST)).clamp(problems.lower, problems.upper)
            r_trial = problems.residuals(trial)
            cost_trial = 0.5 * r_trial.square().sum(-1)
            gain = _taken(cost, at) - cost_trial
            better = tried & (gain > 0)
            gained = _put(gained, few, gain, better)
            u, r, cost = _put(u, at, trial, better), _put(r, at, r_trial, better), _put(cost, at, cost_trial, better)
            damping = _put(damping, at, stiffness * torch.where(better, 0.2, 8.0), tried)
            pending = _put(pending, few, torch.zeros_like(better), better)
            evaluations = evaluations + tried.sum(-1)
        damping = damping.clamp(1e-8, 1e8)
        enough = (SLOW * (cost - cost.amin(-1, keepdim=True))).clamp(min=tolerance)
        waited = _taken(idle, some)
        waited = torch.where(gained < _taken(enough, some), waited + 1, 0)
        idle = _put(idle, some, waited, _taken(active, some))
    return u, cost, evaluations


def _places(chosen: Tensor) -> Tensor:
    """(N, S') where the true ones of (N, S) `chosen` stand, then others, as many as the fullest row has true ones."""
    most = int(chosen.sum(-1).amax())
    return chosen.long().sort(dim=-1, descending=True, stable=True).indices[:, :most]


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """(N, S', ...) of (N, S, ...) `x`."""
    return x.gather(1, _wide(places, x))


def _put(x: Tensor, places: Tensor, new: Tensor, where: Tensor) -> Tensor:
    """(N, S, ...) `x` with (N, S', ...) `new` at the `places` for which `where` (N, S') is true."""
    kept = where.view(*where.shape, *(1,) * (x.ndim - 2))
    return x.scatter(1, _wide(places, x), torch.where(kept, new, _taken(x, places)))


def _wide(places: Tensor, x: Tensor) -> Tensor:
    return places.view(*places.shape, *(1,) * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])


def _normal_equations(problems: Problems, u: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """J^T J (N, S', P, P) and J^T r (N, S', P) by differences away from the bounds."""
    N, _, P = u.shape
    step = torch.where(u + STEP > problems.upper, -STEP, STEP)
    curvature, gradient = [], []
    # Some starts at a time: the Jacobians of all at once would fill the memory for large images.
    at_once = max(1, int(problems.stack.memory / (N * P * r.shape[-1] * r.element_size() * 2)))
    for there, by, residual in zip(*(x.split(at_once, 1) for x in (u, step, r))):
        shifted = there[:, :, None] + torch.diag_embed(by)
        moved = problems.residuals(shifted.flatten(1, 2)).unflatten(1, shifted.shape[1:3])
        jacobian = (moved - residual[:, :, None]) / by[..., None]
        curvature.append(jacobian @ jacobian.mT)
        gradient.append((jacobian @ residual[..., None])[..., 0])
    return torch.cat(curvature, 1), torch.cat(gradient, 1)
