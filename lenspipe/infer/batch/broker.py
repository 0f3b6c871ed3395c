"""Many fits in threads of their own, and one thread that does their heavy work together.

Each fit is the code that fits one candidate. Where it needs many evaluations it asks the `Broker` and waits. When all
fits wait, or so many that they fill a device, the largest group of requests that can stand side by side is served by
one tensor program; a fit that ends makes room for the next. So a lens that converges early leaves, and no lens waits
for a slower one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lenspipe.infer.batch.climb import climb
from lenspipe.infer.batch.compiled import Compiled, pieces
from lenspipe.infer.batch.memory import BUDGET
from lenspipe.infer.batch.problems import Problems, alike
from lenspipe.infer.batch.random import Counted
from lenspipe.infer.batch.walk import walk
from lenspipe.infer.objective import LogPosterior, Objective
from lenspipe.infer.optimise import Optima
from lenspipe.infer.together import program

Floats = NDArray[np.float64]
T = TypeVar("T")
ENOUGH = 64
"""Requests that can stand side by side and do not wait for fits at work: with 80 vectors of each they fill a GPU."""
_LEAST = 1e6
"""Bytes; a budget that is smaller shrinks no call any more."""
log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Request:
    """One fit's: the arguments, and what `serve` makes of a group of them."""

    key: tuple[Hashable, ...]
    of: Objective | LogPosterior
    arguments: tuple[Any, ...]
    serve: Callable[[Problems, list[Any]], list[Any]]
    done: threading.Event = field(default_factory=threading.Event)
    answer: Any = None
    error: Exception | None = None


class Broker:
    """Serves the fits that `run` starts.

    Parameters
    ----------
    device : of the tensor programs.
    memory : bytes that one may take for temporaries; halved when the device runs out of memory. None: `BUDGET`.
    compile : through `torch.compile`, candidates and vectors filled up to fixed numbers.
    """

    def __init__(self, device: torch.device | str = "cpu", memory: float | None = None, compile: bool = False):
        self.device = torch.device(device)
        self.memory = memory or BUDGET[self.device.type]
        self._calls = Compiled() if compile else None
        # Of each kind of request: how many were served together, and the seconds it took.
        self.served: list[tuple[str, int]] = []
        self.seconds: dict[str, float] = {}
        self._state = threading.Condition()
        self._waiting: list[_Request] = []
        # Fits at work on what only they need, and threads that have not ended.
        self._busy = self._alive = 0

    def run(
        self, fits: Sequence[Callable[[], T]], at_once: int, then: Callable[[T], Any] | None = None
    ) -> list[Any | Exception]:
        """Call all `fits`, `at_once` of them at a time; what each returned or raised, in their order.

        Parameters
        ----------
        then : called with what a fit has returned, one at a time and while other fits go on; its own answer counts.
        """
        answers: list[Any] = [None] * len(fits)
        queue = iter(range(len(fits)))
        with ThreadPoolExecutor(1) as after:
            arguments = (fits, queue, answers, after, then)
            threads = [threading.Thread(target=self._work, args=arguments, daemon=True) for _ in range(at_once)]
            self._busy = self._alive = len(threads)
            for thread in threads:
                thread.start()
            with torch.no_grad():
                while group := self._next_group():
                    self._serve(group)
            for thread in threads:
                thread.join()
        return answers

    def climb(self, objective: Objective, start: Floats, iterations: int, tolerance: float) -> tuple[Optima, int]:
        def serve(problems: Problems, starts: list[Floats]) -> list[Any]:
            u, cost, evaluations = climb(problems, _side_by_side(starts, self.device), iterations, tolerance)
            found = zip(_host(u), _host(cost), starts, evaluations.tolist())
            return [(Optima(a[: len(s)], b[: len(s)]), calls) for a, b, s, calls in found]

        key = ("climb", iterations, tolerance, alike(objective.likelihood, objective.priors))
        answer: tuple[Optima, int] = self._ask(key, objective, start, serve)
        return answer

    def cost(self, objective: Objective, u: Floats) -> Floats:
        def serve(problems: Problems, points: list[Floats]) -> list[Any]:
            found = problems.cost(_side_by_side(points, self.device))
            return [a[: len(p)] for a, p in zip(_host(found), points)]

        answer: Floats = self._ask(("cost", alike(objective.likelihood, objective.priors)), objective, u, serve)
        return answer

    def log_posterior(self, posterior: LogPosterior, u: Floats) -> Floats:
        def serve(problems: Problems, points: list[Floats]) -> list[Any]:
            found = problems.log_posterior(_side_by_side(points, self.device))
            return [a[: len(p)] for a, p in zip(_host(found), points)]

        key = ("log_posterior", alike(posterior.likelihood, posterior.priors))
        answer: Floats = self._ask(key, posterior, u, serve)
        return answer

    def walk(
        self,
        posterior: LogPosterior,
        here: Floats,
        values: Floats,
        gaussian: tuple[Floats, Floats],
        stream: tuple[int, int],
        steps: int,
    ) -> tuple[Floats, Floats, int]:
        def serve(problems: Problems, states: list[tuple[Any, ...]]) -> list[Any]:
            u, level, mean, root, seeds, drawn = (
                torch.as_tensor(np.stack(arrays), device=self.device) for arrays in zip(*states)
            )
            random = Counted(seeds, drawn)
            places, levels = walk(problems, u, level, mean, root, random, steps)
            moved = zip(_host(places.transpose(1, 2)), _host(levels.transpose(1, 2)), random.drawn.tolist())
            return list(moved)

        state = (here, values, *gaussian, *(np.array(n, dtype=np.int64) for n in stream))
        key = ("walk", steps, here.shape, alike(posterior.likelihood, posterior.priors))
        answer: tuple[Floats, Floats, int] = self._ask(key, posterior, state, serve)
        return answer

    def _ask(
        self,
        key: tuple[Hashable, ...],
        of: Objective | LogPosterior,
        arguments: Any,
        serve: Callable[[Problems, Any], list[Any]],
    ) -> Any:
        request = _Request(key, of, arguments, serve)
        with self._state:
            self._waiting.append(request)
            self._busy -= 1
            self._state.notify_all()
        request.done.wait()
        if request.error is not None:
            raise request.error
        return request.answer

    def _work(
        self,
        fits: Sequence[Callable[[], Any]],
        queue: Iterator[int],
        answers: list[Any],
        after: Executor,
        then: Callable[[Any], Any] | None,
    ) -> None:
        program.set(self)
        with torch.no_grad():
            while True:
                with self._state:
                    mine = next(queue, None)
                if mine is None:
                    break
                try:
                    answers[mine] = fits[mine]()
                    if then is not None:
                        # Results are large: one that waits to be written down makes no room for the next.
                        self._busy_by(-1)
                        try:
                            answers[mine] = after.submit(then, answers[mine]).result()
                        finally:
                            self._busy_by(1)
                except Exception as error:
                    answers[mine] = error
        with self._state:
            self._alive -= 1
        self._busy_by(-1)

    def _busy_by(self, change: int) -> None:
        """So many more fits have work for which the others wait."""
        with self._state:
            self._busy += change
            self._state.notify_all()

    def _next_group(self) -> list[_Request]:
        """Requests of one key, all there are, when they are `ENOUGH` or no fit has anything else to do; none when all
        have ended."""
        with self._state:
            self._state.wait_for(
                lambda: (self._busy == 0 and (self._waiting or self._alive == 0)) or len(self._largest()) >= ENOUGH
            )
            group = self._largest()
            served = set(group)
            self._waiting = [r for r in self._waiting if r not in served]
            return group

    def _largest(self) -> list[_Request]:
        groups: dict[Hashable, list[_Request]] = {}
        for request in self._waiting:
            groups.setdefault(request.key, []).append(request)
        return max(groups.values(), key=len, default=[])

    def _serve(self, group: list[_Request]) -> None:
        sizes = pieces(len(group)) if self._calls else [len(group)] if group else []
        for size in sizes:
            self._serve_together(group[:size], size)
            group = group[size:]

    def _serve_together(self, group: list[_Request], size: int) -> None:
        """One tensor program of `size` candidates, the last of which may be there several times."""
        full = group + group[-1:] * (size - len(group))
        kind, begun = str(group[0].key[0]), time.perf_counter()
        failure: Exception | None = None
        try:
            likelihoods, priors = [r.of.likelihood for r in full], [r.of.priors for r in full]
            problems = Problems(likelihoods, priors, self.device, self.memory, self._calls)
            answers = group[0].serve(problems, [r.arguments for r in full])
        except Exception as error:
            # Without its traceback, which would hold the tensors of what failed.
            failure = error.with_traceback(None)
        if failure is None:
            self.served.append((kind, len(group)))
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - begun
            for request, answer in zip(group, answers):
                request.answer = answer
        elif (short := isinstance(failure, torch.OutOfMemoryError) and self.memory > _LEAST) or len(group) > 1:
            if short:
                self.memory /= 2
                log.warning("out of memory with %d candidates: on with %.2g GB", len(group), self.memory / 1e9)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            # One of them may be to blame; the others must not suffer for it.
            middle = len(group) // 2
            for part in (group[:middle], group[middle:]):
                self._serve(part)
            return
        else:
            group[0].error = failure
        with self._state:
            self._busy += len(group)
        for request in group:
            request.done.set()


def _side_by_side(rows: list[Floats], device: torch.device) -> Tensor:
    """(N, K, P) of N arrays (k, P), short ones filled up with their first row."""
    most = max(map(len, rows))
    full = [np.concatenate([r, np.repeat(r[:1], most - len(r), axis=0)]) for r in rows]
    return torch.as_tensor(np.stack(full), device=device)


def _host(tensor: Tensor) -> Floats:
    return np.asarray(tensor.cpu().numpy())
