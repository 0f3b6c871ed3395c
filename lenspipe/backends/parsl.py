"""Parsl, and the only file that imports it: a HighThroughputExecutor whose workers are sent one function."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import parsl
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
from parsl.jobs.error_handlers import windowed_error_handler
from parsl.providers import LocalProvider

import lenspipe
from lenspipe.backends.child import died, perform
from lenspipe.errors import Reason
from lenspipe.run.folder import STATE
from lenspipe.stage import Task

WORKER_LOSSES = 5
"""Workers or nodes that may be lost under one task before it counts as the task's own fault."""


class Parsl:
    def __init__(self, kernel: Any, root: Path, registry: str):
        self._app = parsl.python_app(perform, data_flow_kernel=kernel)
        self._root, self._registry = str(root), registry

    def submit(self, task: Task) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        self._app(task.to_json(), self._root, self._registry).add_done_callback(lambda done: _hand_on(done, future))
        return future


@contextmanager
def open_parsl(root: Path, registry: str, cores: int) -> Iterator[Parsl]:
    """Workers on this machine, `cores` of them, gone when the block ends or when this process dies.

    Parameters
    ----------
    registry : module with ``get(name)``, importable by the workers.
    """
    root = root.resolve()
    _make_findable()
    executor = HighThroughputExecutor(
        label="local",
        address="127.0.0.1",
        encrypted=True,
        interchange_launch_cmd=[sys.executable, "-m", "lenspipe.backends.guard", "interchange.py"],
        max_workers_per_node=cores,
        cores_per_worker=1e-6,  # the number of workers is the site's to say
        heartbeat_period=2,
        heartbeat_threshold=30,
        block_error_handler=windowed_error_handler,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1, worker_init=_end_with(os.getpid())),
    )
    config = parsl.Config(
        executors=[executor],
        run_dir=str(root / STATE / "parsl"),
        retries=WORKER_LOSSES,
        retry_handler=_cost,
        strategy="simple",
        strategy_period=1,
        usage_tracking=0,
    )
    with parsl.load(config) as kernel:
        yield Parsl(kernel, root, registry)


def _cost(error: Exception, _: object) -> float:
    """A lost worker or node is worth another try, nothing else is."""
    return 1 if isinstance(error, (WorkerLost, ManagerLost)) else WORKER_LOSSES + 1


def _hand_on(done: Future[dict[str, Any]], future: Future[dict[str, Any]]) -> None:
    """A task under which workers were lost again and again has died; other exceptions are the backend's own."""
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    elif isinstance(error, (WorkerLost, ManagerLost)):
        future.set_result(died(Reason.TASK_CRASHED, f"{WORKER_LOSSES + 1} workers were lost over it: {error}"))
    else:
        future.set_exception(error)


def _make_findable() -> None:
    """Parsl starts its helpers by name, and they import lenspipe: put both on the paths that they inherit."""
    for variable, folder in (
        ("PATH", Path(sys.executable).parent),
        ("PYTHONPATH", Path(lenspipe.__file__).parents[1]),
    ):
        parts = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
        if str(folder) not in parts:
            os.environ[variable] = os.pathsep.join([str(folder), *parts])


def _end_with(pid: int) -> str:
    """Shell lines that end the whole process group of a block once the driver is gone, also if it was killed."""
    return f"(while kill -0 {pid}; do sleep 1; done; kill -9 0) >/dev/null 2>&1 </dev/null &\n"
