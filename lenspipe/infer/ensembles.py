"""Independent ensembles that advance together and can be put away and taken up again between two steps.

The moves are emcee's (Foreman-Mackey et al. 2013, PASP 125, 306). The loop around them is not: all ensembles' proposals
go to the likelihood in one call, which costs less than a call for each. Legend: C ensembles, T steps, K walkers, P
parameters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.infer.checkpoint import Checkpoint

Floats = NDArray[np.float64]
Moves = Callable[[], Sequence[tuple[Any, float]]]
log = logging.getLogger(__name__)

_STRIDE = 10
"""Steps between two looks at the clock."""


class Ensembles:
    """C ensembles of K walkers, an even number; all have made the same number of steps.

    Parameters
    ----------
    log_prob : (K, P) -> (K,).
    moves : makes emcee's red-blue moves with their weights, new for each ensemble, for some remember their scale.
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
        weighted = [list(moves()) for _ in seeds]
        self._moves = [[move for move, _ in pairs] for pairs in weighted]
        self._weights = np.array([[weight for _, weight in pairs] for pairs in weighted])
        self._u: list[Floats] = []
        self._values: list[Floats] = []
        # Where the walkers are, (C, K, P), what log_prob is there, (C, K), and a generator for each ensemble.
        self._here: Floats
        self._here_values: Floats
        self._random: list[np.random.RandomState]
        kept = checkpoint.load("chains")
        if kept:
            self._restore(kept)
        else:
            self._set_out(seeds, begin)

    @property
    def steps(self) -> int:
        """T, made so far."""
        return len(self._u)

    def u(self, first: int = 0, last: int | None = None) -> Floats:
        """(C, T - first, K, P) from step `first` on, up to `last`."""
        return np.stack(self._u[first:last], axis=1)

    def log_prob(self, first: int = 0) -> Floats:
        """(C, T - first, K)."""
        return np.stack(self._values[first:], axis=1)

    def advance(self, steps: int) -> None:
        """Go on to `steps` steps in all."""
        while (left := steps - self.steps) > 0:
            for _ in range(min(left, _STRIDE)):
                self._step()
            if self._checkpoint.due():
                self._save()

    def _step(self) -> None:
        """One move of every walker, as emcee has it: a random half of an ensemble against the other, then that one."""
        u, values = self._here.copy(), self._here_values.copy()
        C, K, P = u.shape
        chosen, halves = [], np.empty((C, 2, K // 2), dtype=np.intp)
        for c, (random, moves, weights) in enumerate(zip(self._random, self._moves, self._weights)):
            chosen.append(moves[random.choice(len(moves), p=weights / weights.sum())])
            chosen[c].setup(u[c])
            halves[c] = random.permutation(K).reshape(2, K // 2)
        for active, other in ((0, 1), (1, 0)):
            proposals, factors = np.empty((C, K // 2, P)), np.empty((C, K // 2))
            for c, move in enumerate(chosen):
                own, others = u[c, halves[c, active]], u[c, halves[c, other]]
                proposals[c], factors[c] = move.get_proposal(own, [others], self._random[c])
            found = self._counted(proposals.reshape(-1, P)).reshape(C, -1)
            for c, random in enumerate(self._random):
                rows = halves[c, active]
                taken = factors[c] + found[c] - values[c, rows] > np.log(random.random_sample(len(rows)))
                u[c, rows[taken]], values[c, rows[taken]] = proposals[c, taken], found[c, taken]
        self._here, self._here_values = u, values
        self._u.append(u)
        self._values.append(values)

    def _counted(self, u: Floats) -> Floats:
        self.evaluations += len(u)
        return self._log_prob(u)

    def _set_out(
        self,
        seeds: Sequence[np.random.SeedSequence],
        begin: Callable[[np.random.Generator, Callable[[Floats], Floats]], Floats],
    ) -> None:
        generators = [np.random.default_rng(seed) for seed in seeds]
        # The moves ask for numpy's older kind of generator.
        self._random = [np.random.RandomState(rng.integers(2**32)) for rng in generators]
        self._here = np.stack([begin(rng, self._counted) for rng in generators])
        C, K, P = self._here.shape
        self._here_values = self._counted(self._here.reshape(-1, P)).reshape(C, K)

    def _save(self) -> None:
        random: list[Any] = [r.get_state() for r in self._random]
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

    def _restore(self, kept: Any) -> None:
        self._u, self._values = list(kept["u"].swapaxes(0, 1)), list(kept["log_prob"].swapaxes(0, 1))
        self._here, self._here_values = self._u[-1], self._values[-1]
        self.evaluations = int(kept["evaluations"])
        log.info("goes on after step %d, which an earlier process had reached", self.steps)
        self._random = []
        for keys, position, has, cached in zip(
            kept["keys"], kept["position"], kept["has_gauss"], kept["cached_gaussian"]
        ):
            self._random.append(np.random.RandomState())
            self._random[-1].set_state(("MT19937", keys, int(position), int(has), float(cached)))
