"""Processes that do one task together: ``mpirun``, ``srun`` or ``torchrun`` starts them, the first one leads.

The first rank runs a stage as any single process does. Where it wants the others it calls `Ranks.together`; until then
they wait in `Ranks.serve`. So locks, receipts and final names stay with one process, and a stage's code is the same for
any number of ranks.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol

from lenspipe.errors import Interrupted, LenspipeError, RanksLost

Talk = Literal["", "mpi", "torch"]
"""How the ranks of a stage talk: not at all (it is the work of one process), by MPI, or by torch.distributed."""
_LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "mpirun (Open MPI)": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mpirun": ("PMI_RANK", "PMI_SIZE"),
    # Of a step: in the job's own shell, where nothing was started several times, it is not set.
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}
"""Launcher -> variables with rank and size, the innermost first: mpirun may itself use srun."""
_KNOWN: dict[str, type[Exception]] = {"mistake": LenspipeError, "interrupted": Interrupted}
"""Errors that come back from other ranks as what they were."""
_PATIENCE = timedelta(hours=12)
"""For a rank that is there but silent; one that is gone is noticed at once."""


class _Transport(Protocol):
    broken: bool

    def broadcast(self, item: Any) -> Any: ...

    def gather(self, item: Any) -> list[Any]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Ranks:
    """This process among those of its task.

    Attributes
    ----------
    rank, size : 0 leads.
    local_rank : number among the ranks of this machine.
    cpus : cores for each rank of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    cpus: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    transport: _Transport | None = None

    def together(self, function: Callable[..., Any], *arguments: Any, talking: bool = False) -> list[Any]:
        """What ``function(ranks, *arguments)`` returns on each rank, called on all of them at once.

        An error in one rank is raised here. With `talking` the function itself makes the ranks talk: the others would
        then wait for one that failed, so that its process ends, and with it, by its launcher, the job.
        """
        if self.transport is None:
            return [function(self, *arguments)]
        self.transport.broadcast((function.__module__, function.__qualname__, arguments, talking))
        results = self.transport.gather(self._call(function, arguments, talking))
        for rank, (error, text) in enumerate(results):
            if error:
                raise _KNOWN[error](text) if error in _KNOWN else RuntimeError(f"rank {rank}: {text}")
        return [result for _, result in results]

    def serve(self) -> None:
        """On every rank but the first: do what the first asks for until it is done."""
        assert self.transport is not None
        while (call := self.transport.broadcast(None)) is not None:
            module, name, arguments, talking = call
            function = getattr(importlib.import_module(module), name)
            self.transport.gather(self._call(function, arguments, talking))

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...], talking: bool) -> tuple[str, Any]:
        try:
            return "", function(self, *arguments)
        except Exception as error:
            for kind, known in _KNOWN.items():
                if isinstance(error, known) and not (talking and known is LenspipeError):
                    return kind, str(error)
            if not talking:
                return "error", traceback.format_exc()
            if self.rank:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            assert self.transport is not None
            self.transport.broken = True
            if isinstance(error, LenspipeError):
                raise
            raise RanksLost(f"the {self.size} ranks lost each other: {type(error).__name__}: {error}") from error


_current = Ranks()


def current() -> Ranks:
    """The ranks of the task that this process works on; a single one where nothing was launched."""
    return _current


@contextmanager
def opened(talk: Talk, what: str) -> Iterator[Ranks]:
    """The ranks that a launcher started this process among.

    Parameters
    ----------
    what : the command, for messages.

    Raises
    ------
    LenspipeError : `what` is the work of one process, or the ranks that were started do not find each other.
    """
    global _current
    rank, size, launcher = launched(os.environ)
    if size == 1:
        yield _current
        return
    if not talk:
        raise LenspipeError(f"{what} is the work of one process, and {launcher} started {size}.")
    transport = _Mpi(size, launcher) if talk == "mpi" else _Torch(rank, size, launcher)
    places: list[Any] = transport.broadcast(transport.gather((_node(), sorted(os.sched_getaffinity(0)))))
    here = [number for number, (node, _) in enumerate(places) if node == places[rank][0]]
    # Ranks that are bound to cores have these each to itself; others share those of the machine.
    sharing = sum(places[number] == places[rank] for number in here)
    _current = Ranks(rank, size, here.index(rank), max(1, len(places[rank][1]) // sharing), transport)
    try:
        yield _current
    finally:
        _current = Ranks()
        if not transport.broken:
            if rank == 0:
                transport.broadcast(None)
            transport.close()


def launched(environment: Mapping[str, str]) -> tuple[int, int, str]:
    """Rank, number of ranks and launcher, by the variables that launchers set."""
    for launcher, (rank, size) in _LAUNCHERS.items():
        if rank in environment and size in environment:
            return int(environment[rank]), int(environment[size]), launcher
    return 0, 1, ""


def first_host(nodes: str) -> str:
    """The first of Slurm's list of nodes, such as ``nid[001-004,007]``."""
    head, bracket, rest = nodes.split(",")[0].partition("[")
    return head + rest.partition("-")[0].rstrip("]") if bracket else head


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


class _Mpi:
    """mpi4py's COMM_WORLD."""

    def __init__(self, size: int, launcher: str):
        self.broken = False
        self._world = _world()
        if (found := self._world.Get_size()) != size:
            raise LenspipeError(
                f"{launcher} started {size} processes, but each finds itself alone in MPI (of {found}) and would do all"
                " of the work. Launcher and MPI library do not fit: under Slurm say srun --mpi=pmi2 (srun --mpi=list"
                " names what there is), elsewhere take the mpirun that came with the library."
            )

    def broadcast(self, item: Any) -> Any:
        return self._world.bcast(item)

    def gather(self, item: Any) -> list[Any]:
        return self._world.gather(item) or []

    def close(self) -> None:
        """mpi4py ends MPI with the process."""


class _Torch:
    """torch.distributed: NCCL between GPUs, Gloo for all else."""

    def __init__(self, rank: int, size: int, launcher: str):
        import torch
        from torch import distributed

        if launcher == "srun":
            _meet_by_slurm()
        elif launcher != "torchrun":
            _meet_by_mpi()
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, rank=rank, world_size=size, timeout=_PATIENCE)
        self.broken = False
        self._group, self._lists = distributed, [None] * size if rank == 0 else None

    def broadcast(self, item: Any) -> Any:
        box = [item]
        self._group.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, item: Any) -> list[Any]:
        self._group.gather_object(item, self._lists, dst=0)
        return list(self._lists or [])

    def close(self) -> None:
        self._group.destroy_process_group()


def _meet_by_slurm() -> None:
    """The first node of the step is where the first rank is; the job's number chooses a port."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
    os.environ.setdefault("MASTER_ADDR", first_host(nodes))
    number = 97 * int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
    os.environ.setdefault("MASTER_PORT", str(20000 + number % 10000))


def _meet_by_mpi() -> None:
    """The first rank says where it is and which port of it is free."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    where, port = _world().bcast((socket.gethostname(), port))
    os.environ.setdefault("MASTER_ADDR", where)
    os.environ.setdefault("MASTER_PORT", str(port))


def _world() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the latter where there is no MPI library
        raise LenspipeError(
            f"several processes were started, and mpi4py cannot be used ({error}): pip install 'lenspipe[mpi]'."
        ) from None
    return MPI.COMM_WORLD
