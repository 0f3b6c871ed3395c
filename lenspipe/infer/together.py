"""Between one candidate's fit and a program that serves many: the fit asks, and does not know who else does."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from lenspipe.infer.objective import LogPosterior, Objective
    from lenspipe.infer.optimise import Optima

Floats = NDArray[np.float64]
ROUND = 100
"""Steps of the sampler that are asked for at a time: fits whose rounds are as long are served together."""


class Program(Protocol):
    """Serves fits in other threads; each call returns when its turn has come. Legend as in `lenspipe.infer.sample`.

    Attributes
    ----------
    device : where it runs.
    """

    device: torch.device

    def climb(self, objective: Objective, start: Floats, iterations: int, tolerance: float) -> tuple[Optima, int]:
        """`levenberg_marquardt`, and the number of evaluations."""
        ...

    def cost(self, objective: Objective, u: Floats) -> Floats:
        """(K,) half the squared residuals."""
        ...

    def log_posterior(self, posterior: LogPosterior, u: Floats) -> Floats:
        """(K,)."""
        ...

    def walk(
        self,
        posterior: LogPosterior,
        here: Floats,
        values: Floats,
        gaussian: tuple[Floats, Floats],
        stream: tuple[int, int],
        steps: int,
    ) -> tuple[Floats, Floats, int]:
        """Ensembles at (C, K, P) `here` moved on: their places (C, T, K, P), what the posterior is there, and how many
        numbers the stream (seed, drawn) has given then. `gaussian` is the mean and the Cholesky root of Crank-Nicolson.
        """
        ...


program: ContextVar[Program | None] = ContextVar("program", default=None)
"""Where this thread's fit is one of many; None: it works for itself."""
