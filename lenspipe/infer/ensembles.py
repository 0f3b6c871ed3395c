"""Independent emcee ensembles that advance together and can be put away and taken up again between two steps.

emcee: Foreman-Mackey et al. 2013, PASP 125, 306. Legend: C ensembles, T steps, K walkers, P parameters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import emcee
import numpy as np
from numpy.typing import NDArray

from lenspipe.infer.checkpoint import Checkpoint

Floats = NDArray[np.float64]
Moves = Callable[[], Sequence[tuple[Any, float]]]
log = logging.getLogger(__name__)

_STRIDE = 10
"""Steps between two looks at the clock."""


class Ensembles:
    """C ensembles of K walkers; all have made the same number of steps.

    Parameters
    ----------
    log_prob : (K, P) -> (K,).
    moves : makes emcee's moves with their weights, new for each ensemble, for some remember their scale.
    seeds : one for each ensemble.
    begin : generator -> (K, P) positions from which an ensemble sets out; not called where `checkpoint` holds chains.
    checkpoint : where the chains and the generators' states are kept meanwhile.
    """

    def __init__(
        self,
        log_prob: Callable[[Floats], Floats],
        moves: Moves,
        seeds: Sequence[np.random.SeedSequence],
        begin: Callable[[np.random.Generator, Callable[[Floats], Floats]], Floats],
        checkpoint: Checkpoint,
    ):
        self._log_prob, self._checkpoint = log_prob, checkpoint
        self.evaluations = 0
        self._u: list[list[Floats]] = [[] for _ in seeds]
        self._values: list[list[Floats]] = [[] for _ in seeds]
        kept = checkpoint.load("chains")
        self._states = self._restored(kept) if kept else [self._first(seed, begin) for seed in seeds]
        walkers, parameters = self._states[0].coords.shape
        self._samplers = [
            emcee.EnsembleSampler(walkers, parameters, self._counted, vectorize=True, moves=list(moves()))
            for _ in seeds
        ]

    @property
    def steps(self) -> int:
        """T, made so far."""
        return len(self._u[0])

    def u(self, first: int = 0, last: int | None = None) -> Floats:
        """(C, T - first, K, P) from step `first` on, up to `last`."""
        return np.stack([np.stack(steps[first:last]) for steps in self._u])

    def log_prob(self, first: int = 0) -> Floats:
        """(C, T - first, K)."""
        return np.stack([np.stack(steps[first:]) for steps in self._values])

    def advance(self, steps: int) -> None:
        """Go on to `steps` steps in all."""
        while (left := steps - self.steps) > 0:
            # All by the same stride in turn, so that what is kept is a rectangle.
            for c, sampler in enumerate(self._samplers):
                walk = sampler.sample(
                    self._states[c], iterations=min(left, _STRIDE), store=False, skip_initial_state_check=True
                )
                for state in walk:
                    self._u[c].append(state.coords.copy())
                    self._values[c].append(state.log_prob.copy())
                    self._states[c] = state
            if self._checkpoint.due():
                self._save()

    def _counted(self, u: Floats) -> Floats:
        self.evaluations += len(u)
        return self._log_prob(u)

    def _first(
        self, seed: np.random.SeedSequence, begin: Callable[[np.random.Generator, Callable[[Floats], Floats]], Floats]
    ) -> emcee.State:
        rng = np.random.default_rng(seed)
        legacy = np.random.RandomState(rng.integers(2**32))
        return emcee.State(begin(rng, self._counted), random_state=legacy.get_state())

    def _save(self) -> None:
        random = [state.random_state for state in self._states]
        self._checkpoint.save(
            "chains",
            {
                "u": self.u(),
                "log_prob": self.log_prob(),
                "evaluations": np.array(self.evaluations),
                "keys": np.stack([r[1] for r in random]),
                "position": np.array([r[2] for r in random]),
                "has_gauss": np.array([r[3] for r in random]),
                "cached_gaussian": np.array([r[4] for r in random]),
            },
        )

    def _restored(self, kept: Any) -> list[emcee.State]:
        u, values = kept["u"], kept["log_prob"]
        self._u, self._values = [list(chain) for chain in u], [list(chain) for chain in values]
        self.evaluations = int(kept["evaluations"])
        log.info("goes on after step %d, which an earlier process had reached", self.steps)
        random = zip(kept["keys"], kept["position"], kept["has_gauss"], kept["cached_gaussian"])
        return [
            emcee.State(
                u[c, -1], log_prob=values[c, -1], random_state=("MT19937", keys, int(position), int(has), float(cached))
            )
            for c, (keys, position, has, cached) in enumerate(random)
        ]
