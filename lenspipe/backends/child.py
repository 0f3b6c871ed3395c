"""A worker's tasks run in one child process: a crash or a time limit ends the child, not the worker.

The child stays between tasks, so imports and compiled kernels stay warm.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as OutOfTime
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from lenspipe.backends.team import died, perform_together
from lenspipe.errors import Reason
from lenspipe.run.execute import THREAD_VARIABLES, execute
from lenspipe.run.folder import log_path
from lenspipe.stage import Task

_ONE_CORE = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Where workers keep to cores Parsl sets these too; they would tie a process's first thread, and so all processes that
it starts, to a single core."""


class Child:
    """One child process, started at its first task and again after it has ended."""

    def __init__(self) -> None:
        self._pool: ProcessPool | None = None
        self._cpus = 0

    def perform(self, task: Task, root: Path, registry: str, stop: Callable[[], bool] | None = None) -> dict[str, Any]:
        """What `execute` returns; where the child died over the task, ``died``.

        Where `stop` comes true before that, the child is ended, and there is only ``stopped``.
        """
        pool = self._ready(task.cpus)
        future = pool.schedule(_work, args=[task.to_json(), str(root), registry], timeout=task.minutes * 60)
        try:
            while stop and not wait_for([future], timeout=1).done:
                if stop():
                    self.close()
                    return {"receipts": [], "stopped": True}
            result: dict[str, Any] = future.result()
            return result
        except OutOfTime:
            return died(Reason.TIME_LIMIT, f"It did not end within {task.minutes:g} min.")
        except ProcessExpired as error:
            return died(Reason.TASK_CRASHED, f"The process ended with {_end_of(error.exitcode)}.")
        except Exception as error:  # the pool itself broke, for example because an idle child was killed
            self.close()
            return died(Reason.TASK_CRASHED, f"The process could not be used: {type(error).__name__}: {error}")

    def close(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def _ready(self, cpus: int) -> ProcessPool:
        """The child's pool. Numerical libraries fix their threads when they load: another number, another child."""
        if self._pool is not None and (cpus != self._cpus or not self._pool.active):
            self.close()
        if self._pool is None:
            for name in THREAD_VARIABLES:
                os.environ[name] = str(cpus)
            for name in _ONE_CORE:
                os.environ.pop(name, None)
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPool(max_workers=1, context=context, initializer=_die_with_parent)
            self._cpus = cpus
        return self._pool


class OneChild:
    """A backend of one child process, on this machine: one task after the other, nothing listens on any port."""

    def __init__(self, root: Path, registry: str):
        self._root, self._registry, self.child = root, registry, Child()

    def submit(self, task: Task, pool: str) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        future.set_result(self.child.perform(task, self._root, self._registry))
        return future


@contextmanager
def open_child(root: Path, registry: str) -> Iterator[OneChild]:
    """`registry` is the module whose ``get(name)`` knows the stages."""
    one = OneChild(root, registry)
    try:
        yield one
    finally:
        one.child.close()


_child = Child()


def perform(task: dict[str, Any], root: str, registry: str) -> dict[str, Any]:
    """The one function that workers are sent. `registry` is the module whose ``get(name)`` knows the stages."""
    return _child.perform(Task.from_json(task), Path(root), registry)


def _work(task_json: dict[str, Any], root: str, registry: str) -> dict[str, Any]:
    """In the child: whatever C code prints, and where it crashes, goes to the task's log too."""
    task = Task.from_json(task_json)
    log = log_path(Path(root), task)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    faulthandler.enable(file=2)
    if task.ranks > 1:
        return perform_together(task, Path(root), registry)
    return execute(task, import_module(registry).get(task.stage), Path(root))


def _die_with_parent() -> None:
    """End this process, whatever it is doing, when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _end_of(exitcode: int) -> str:
    return f"signal {signal.Signals(-exitcode).name}" if exitcode < 0 else f"exit code {exitcode}"
