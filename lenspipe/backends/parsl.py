"""Parsl, and the only file that imports it: a HighThroughputExecutor whose workers are sent one function."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import parsl
from parsl.addresses import address_by_interface
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
from parsl.jobs.error_handlers import windowed_error_handler
from parsl.launchers import SimpleLauncher, SingleNodeLauncher, SrunLauncher
from parsl.launchers.base import Launcher
from parsl.providers import CondorProvider, LocalProvider, SlurmProvider
from parsl.providers.base import ExecutionProvider

import lenspipe
from lenspipe.backends.child import perform
from lenspipe.backends.site import Executor, Site, minutes_of
from lenspipe.backends.slurm import job_name, outside_of_jobs
from lenspipe.backends.team import died
from lenspipe.errors import LenspipeError, Reason
from lenspipe.run.folder import STATE
from lenspipe.stage import Task

WORKER_LOSSES = 5
"""Workers or nodes that may be lost under one task before it counts as the task's own fault."""
KEPT_LOGS = 5
"""Folders with Parsl's own logs that a run folder keeps, one a start of the driver."""


class Parsl:
    def __init__(self, kernel: Any, root: Path, registry: str):
        self._kernel = kernel
        self._apps: dict[str, Any] = {}
        self._root, self._registry = str(root), registry

    def submit(self, task: Task, pool: str) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        if pool not in self._apps:
            self._apps[pool] = parsl.python_app(perform, data_flow_kernel=self._kernel, executors=[pool])
        done = self._apps[pool](task.to_json(), self._root, self._registry)
        done.add_done_callback(lambda done: _hand_on(done, future))
        return future


_LOOK_BACK = 300
"""Seconds for which HTCondor's queue still shows a block that has ended, or keeps one that is held."""


@contextmanager
def open_parsl(root: Path, registry: str, site: Site) -> Iterator[Parsl]:
    """The workers of `site`, gone when the block ends or when this process dies.

    Parameters
    ----------
    registry : module with ``get(name)``, importable by the workers.
    """
    root = root.resolve()
    logs = root / STATE / "parsl"
    _prune(logs)
    _make_findable()
    executors = site.workers()
    name = f"{job_name(root)}-{uuid.uuid4().hex[:8]}"
    batch = [executor for executor in executors.values() if executor.provider != "local"]
    config = parsl.Config(
        executors=[_executor(label, executor, site, name) for label, executor in executors.items()],
        run_dir=str(logs),
        retries=WORKER_LOSSES,
        retry_handler=_cost,
        strategy="htex_auto_scale" if batch else "simple",
        strategy_period=1,
        max_idletime=min((executor.idle_seconds for executor in batch), default=120),
        usage_tracking=0,
    )
    with ExitStack() as stack:
        for system in {executor.provider for executor in batch}:
            stack.enter_context(_guard(system, name))
        yield Parsl(stack.enter_context(parsl.load(config)), root, registry)


def _executor(label: str, executor: Executor, site: Site, name: str) -> HighThroughputExecutor:
    minutes = minutes_of(executor.walltime)
    return _HighThroughput(
        label=label,
        address=_address(site, executor),
        encrypted=True,
        interchange_launch_cmd=[sys.executable, "-m", "lenspipe.backends.guard", "interchange.py"],
        max_workers_per_node=executor.per_node(),
        cores_per_worker=1e-6,  # the number of workers is the site's to say
        available_accelerators=executor.gpus(),
        cpu_affinity=executor.affinity,
        heartbeat_period=2 if executor.is_here else site.heartbeat_seconds,
        heartbeat_threshold=30 if executor.is_here else site.lost_seconds,
        drain_period=int(60 * (minutes - executor.drain_minutes)) if executor.drain_minutes else None,
        block_error_handler=windowed_error_handler,
        provider=_provider(label, executor, site, name),
    )


class _HighThroughput(HighThroughputExecutor):
    """Parsl gives one block back where it means none, and takes one that has not come up yet for the idlest of all."""

    def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
        if max_idletime is not None:
            up = self.connected_blocks()
            if not blocks or any(not status.terminal and block not in up for block, status in self._status.items()):
                return []
        given_back: list[str] = super().scale_in(blocks, max_idletime)
        return given_back


def _provider(label: str, executor: Executor, site: Site, name: str) -> ExecutionProvider:
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in site.environment.items())
    init = f"{site.setup.strip()}\n{exports}{_paths()}"
    blocks: dict[str, Any] = {
        "nodes_per_block": executor.nodes_per_block,
        "max_blocks": executor.max_blocks,
        "launcher": _launcher(executor),
    }
    if executor.provider == "local":
        # The srun launcher names a file after the job: two executors in one job need two names.
        own = f"export SLURM_JOB_NAME={label}\n" if executor.launcher == "srun" else ""
        blocks |= {"init_blocks": 1, "min_blocks": 1}
        return LocalProvider(worker_init=f"{_end_with(os.getpid())}{own}", **blocks)
    if executor.provider == "condor":
        # The provider's own lines would leave ended jobs in the queue, let held ones wait and know no walltime.
        lines = (
            f"batch_name = {name}-{label}",
            f"leave_in_queue = JobStatus == 4 && time() - CompletionDate < {_LOOK_BACK}",
            f"periodic_remove = (JobStatus == 5 && time() - EnteredCurrentStatus > {_LOOK_BACK}) || "
            f"(JobStatus == 2 && time() - JobCurrentStartDate > {int(60 * minutes_of(executor.walltime))})",
            *executor.options,
        )
        return Condor(
            name=f"{name}-{label}",
            most_blocks=executor.most_blocks,
            poll_seconds=min(60, site.lost_seconds),
            init_blocks=0,
            cores_per_slot=executor.cores(),
            mem_per_slot=executor.memory_gb_per_node,
            walltime=executor.walltime,
            scheduler_options="".join(f"{line}\n" for line in lines),
            # Its jobs begin in a folder of their own; options may name files from where the driver is.
            worker_init=f"cd {shlex.quote(os.getcwd())}\n{init}",
            **blocks,
        )
    return Slurm(
        name=f"{name}-{label}",
        most_blocks=executor.most_blocks,
        poll_seconds=min(60, site.lost_seconds),
        init_blocks=0,
        partition=executor.partition,
        constraint=executor.constraint,
        account=executor.account or site.account,
        qos=executor.qos or site.qos,
        walltime=executor.walltime,
        cores_per_node=executor.cpus_per_node or executor.cores(),
        mem_per_node=executor.memory_gb_per_node and int(executor.memory_gb_per_node),
        gpus_per_node=len(executor.gpus()) or None,
        exclusive=executor.exclusive,
        # Its tasks are Parsl's to hand out again; a block that Slurm starts again would do them beside it.
        scheduler_options="".join(f"#SBATCH {line}\n" for line in ("--no-requeue", *executor.options)),
        worker_init=init,
        cmd_timeout=120,
        **blocks,
    )


class _Blocks:
    """Blocks under a name of the run's own, and no more of them than the site allows in all."""

    def __init__(self, name: str, most_blocks: int, poll_seconds: int, **more: Any):
        super().__init__(**more)
        self._name, self._left, self._poll_seconds = name, most_blocks, poll_seconds

    def submit(self, command: str, tasks_per_node: int, job_name: str = "") -> str:
        if not self._left:
            raise RuntimeError("the site's total_blocks are spent (a block lost again and again?)")
        self._left -= 1
        job: str = super().submit(command, tasks_per_node, self._name)  # type: ignore[misc]
        return job

    @property
    def status_polling_interval(self) -> int:
        return self._poll_seconds


class Slurm(_Blocks, SlurmProvider):
    """Slurm's."""

    def execute_wait(self, cmd: str, timeout: int | None = None) -> tuple[int, str, str]:
        """The driver may itself be in a job (NERSC's workflow QOS); blocks must not inherit the layout of that."""
        inherited = sorted(name for name in os.environ.keys() - outside_of_jobs(os.environ) if name.isidentifier())
        found: tuple[int, str, str] = super().execute_wait(f"unset X {' '.join(inherited)}; {cmd}", timeout)
        return found


class Condor(_Blocks, CondorProvider):
    """HTCondor's."""


def _launcher(executor: Executor) -> Launcher:
    if executor.launcher == "srun":
        # Where one node's workers end badly, those of the others go on.
        nodes = f"--nodes={executor.nodes_per_block} --ntasks-per-node=1 --overlap --kill-on-bad-exit=0"
        return SrunLauncher(overrides=f"{nodes} {executor.srun_options}".strip())
    return SimpleLauncher() if executor.launcher == "simple" else SingleNodeLauncher()


def _address(site: Site, executor: Executor) -> str:
    """Where workers reach the driver; this machine's own are the only ones that do so over loopback."""
    if site.interface is None or executor.is_here:
        return "127.0.0.1"
    try:
        return address_by_interface(site.interface)
    except OSError:
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise LenspipeError(
            f"site {site.name}: no interface {site.interface!r} with an address; there are: {names}."
        ) from None


@contextmanager
def _guard(system: str, name: str) -> Iterator[None]:
    """A process of its own that ends the batch system's jobs of this name after the block, and if this process dies."""
    argv = [sys.executable, "-m", "lenspipe.backends.guard", "--jobs", system, name]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as guard:
        try:
            yield
        finally:
            assert guard.stdin is not None
            guard.stdin.close()


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
        future.set_exception(RuntimeError(_condensed(str(error))))


def _condensed(text: str) -> str:
    """Parsl's account of failed blocks, each thing said once; their numbers make no difference."""
    said = {re.sub(r"\d+", "", line): line.strip() for line in reversed(text.splitlines())}
    lines = [line for line in reversed(said.values()) if line and not re.fullmatch(r"(.*: )?Error \d+:", line)]
    return "; ".join(lines)


def _prune(logs: Path) -> None:
    """Make room for the logs of another start."""
    old = sorted(logs.glob("[0-9]*"), key=lambda path: path.stat().st_mtime)
    for folder in old[: -(KEPT_LOGS - 1)]:
        shutil.rmtree(folder, ignore_errors=True)


def _make_findable() -> None:
    """Parsl starts its helpers by name, and they import lenspipe: put both on the paths that they inherit."""
    for variable, folder in (
        ("PATH", Path(sys.executable).parent),
        ("PYTHONPATH", Path(lenspipe.__file__).parents[1]),
    ):
        parts = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
        if str(folder) not in parts:
            os.environ[variable] = os.pathsep.join([str(folder), *parts])


def _paths() -> str:
    """Shell lines that let a node find what this process does."""
    found = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH\n"
    return found + f"export PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])}\n"


def _end_with(pid: int) -> str:
    """Shell lines that end the whole process group of a block once the driver is gone, also if it was killed."""
    return f"(while kill -0 {pid}; do sleep 1; done; kill -9 0) >/dev/null 2>&1 </dev/null &\n"
