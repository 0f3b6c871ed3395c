"""Ensembles whose steps a program makes that serves many fits; the face of `lenspipe.infer.ensembles.Ensembles`.

Legend: C ensembles, T steps, K walkers, P parameters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lenspipe.infer.checkpoint import Checkpoint
from lenspipe.infer.objective import LogPosterior
from lenspipe.infer.together import ROUND, Program

if TYPE_CHECKING:
    from lenspipe.infer.sample import CrankNicolson

Floats = NDArray[np.float64]
log = logging.getLogger(__name__)

_PART = "shared chains"
"""Of the checkpoint. A fit that goes on alone, with other random numbers, begins its sampling anew."""


class SharedEnsembles:
    """C ensembles of K walkers; random numbers come from one counted stream, so a restart goes on with the same."""

    def __init__(
        self,
        program: Program,
        log_prob: LogPosterior,
        gaussian: CrankNicolson,
        seeds: Sequence[np.random.SeedSequence],
        begin: Callable[[np.random.Generator, Callable[[Floats], Floats]], Floats],
        checkpoint: Checkpoint,
    ):
        self._program, self._log_prob, self._gaussian, self._checkpoint = program, log_prob, gaussian, checkpoint
        self._seed = int(seeds[0].generate_state(1, np.uint64)[0] >> 1)
        self._u: list[Floats] = []
        self._values: list[Floats] = []
        self.steps = self.evaluations = self._drawn = 0
        kept = checkpoint.load(_PART)
        if kept:
            self._restore(kept)
            return
        self._here = np.stack([begin(np.random.default_rng(seed), self._counted) for seed in seeds])
        C, K, P = self._here.shape
        self._here_values = self._counted(self._here.reshape(-1, P)).reshape(C, K)

    def u(self, first: int = 0, last: int | None = None) -> Floats:
        """(C, T - first, K, P) from step `first` on, up to `last`."""
        return np.concatenate(self._u, axis=1)[:, first:last]

    def log_prob(self, first: int = 0) -> Floats:
        """(C, T - first, K)."""
        return np.concatenate(self._values, axis=1)[:, first:]

    def advance(self, steps: int) -> None:
        """Go on to `steps` steps in all."""
        while (left := steps - self.steps) > 0:
            gaussian = (self._gaussian.mean, self._gaussian.root)
            u, values, self._drawn = self._program.walk(
                self._log_prob,
                self._here,
                self._here_values,
                gaussian,
                (self._seed, self._drawn),
                min(left, ROUND),
            )
            self._u.append(u)
            self._values.append(values)
            self._here, self._here_values = u[:, -1], values[:, -1]
            self.steps += u.shape[1]
            self.evaluations += values.size
            if self._checkpoint.due():
                kept = {"evaluations": np.array(self.evaluations), "drawn": np.array(self._drawn)}
                self._checkpoint.save(_PART, {"u": self.u(), "log_prob": self.log_prob(), **kept})

    def _counted(self, u: Floats) -> Floats:
        self.evaluations += len(u)
        return self._program.log_posterior(self._log_prob, u)

    def _restore(self, kept: Any) -> None:
        self._u, self._values = [kept["u"]], [kept["log_prob"]]
        self._here, self._here_values = kept["u"][:, -1], kept["log_prob"][:, -1]
        self.steps, self.evaluations, self._drawn = kept["u"].shape[1], int(kept["evaluations"]), int(kept["drawn"])
        log.info("goes on after step %d, which an earlier process had reached", self.steps)
