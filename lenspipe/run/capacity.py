"""What a site gives, as the driver sees it: pools of workers, and which stage goes to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lenspipe.errors import LenspipeError
from lenspipe.stage import Resources


@dataclass(frozen=True)
class Pool:
    """Workers that are all alike.

    Attributes
    ----------
    slots : workers, all nodes together.
    cores_per_slot : cores of one worker.
    widest : workers whose cores one task may take.
    gpus : GPUs of a node; a worker has one of them where there are any.
    memory_gb : of all tasks at a time, None where it is not watched.
    """

    label: str
    slots: int
    cores_per_slot: int = 1
    widest: int = 1
    gpus: int = 0
    memory_gb: float | None = None

    @property
    def cores(self) -> int:
        """The most that one task gets."""
        return self.cores_per_slot * self.widest

    def cpus(self, needed: Resources) -> int:
        return min(needed.cpus, self.cores)

    def cpus_of_rank(self, needed: Resources, ranks: int) -> int:
        """Cores of each of `ranks` processes that share all slots."""
        return max(1, min(needed.cpus, self.slots * self.cores_per_slot // ranks))

    def takes(self, cpus: int, ranks: int = 1) -> int:
        """Slots of a task with `cpus` cores; where several processes share it, all there are."""
        return -(-cpus // self.cores_per_slot) if ranks == 1 else self.slots


@dataclass(frozen=True)
class Capacity:
    """What a site gives.

    Attributes
    ----------
    per_task : stage -> keys of one task, in place of the stage's own figure.
    minutes_factor : multiplies every time limit.
    ranks : stage -> processes of one task; such a task has its pool to itself.
    site : its name, for messages.
    """

    pools: Sequence[Pool]
    per_task: Mapping[str, int] = field(default_factory=dict)
    minutes_factor: float = 1.0
    ranks: Mapping[str, int] = field(default_factory=dict)
    site: str = "local"

    def place(self, name: str, needed: Resources) -> Pool:
        """The pool for a stage: one with GPUs where it uses one and there is such, else the narrowest that is enough.

        `LenspipeError` where a stage cannot do without a GPU and there is none.
        """
        with_gpus = [pool for pool in self.pools if pool.gpus]
        if needed.gpus_required and not with_gpus:
            raise LenspipeError(f"{name} needs a GPU, and no executor of site {self.site} has any (accelerators).")
        without = [pool for pool in self.pools if not pool.gpus]
        fitting = (with_gpus if needed.gpus else without) or list(self.pools)
        enough = [pool for pool in fitting if pool.cores >= needed.cpus]
        if enough:
            return min(enough, key=lambda pool: pool.cores_per_slot)
        return max(fitting, key=lambda pool: pool.cores)

    def keys_of_task(self, name: str, needed: Resources, pool: Pool, due: int, free: int) -> int:
        """Keys that the next task takes of the `due` ones, where `free` more such tasks could begin in `pool`.

        On GPUs, whose workers do all of a task's keys together, that is each one's share of what is due.
        """
        if name not in self.per_task and pool.gpus and needed.per_gpu:
            return max(needed.per_task, min(needed.per_gpu, -(-due // max(free, 1))))
        return max(1, self.per_task.get(name, needed.per_task))

    def lacks_gpu(self, needed: Resources) -> bool:
        """True if a stage that would use a GPU has to do without."""
        return bool(needed.gpus) and not any(pool.gpus for pool in self.pools)


def machine(cores: int, memory_gb: float | None = None, **more: object) -> Capacity:
    """The cores of one machine, shared by tasks as they need them."""
    return Capacity((Pool("local", cores, widest=cores, memory_gb=memory_gb),), **more)  # type: ignore[arg-type]
