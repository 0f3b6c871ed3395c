"""Facts about a machine, apart from the workflow: a small YAML file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

import lenspipe
from lenspipe.backends.dagman.options import Dagman
from lenspipe.config import Config, nearest, parse, read_yaml
from lenspipe.errors import LenspipeError
from lenspipe.run.capacity import Capacity, Pool
from lenspipe.run.workflow import put, split_set

WORKFLOWS = Path(lenspipe.__file__).parent / "workflows"
"""The workflow files that come with the package, and in ``sites/`` the sites."""


def _one_line(text: str) -> str:
    if "\n" in text:
        raise ValueError("one line only")
    return text


def _duration(text: str) -> str:
    if not re.fullmatch(r"(\d+-)?\d{1,2}:\d\d:\d\d", text):
        raise ValueError("write HH:MM:SS or D-HH:MM:SS, in quotes")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
Walltime = Annotated[str, AfterValidator(_duration)]


def minutes_of(walltime: str) -> float:
    """``D-HH:MM:SS`` in minutes."""
    days, _, clock = walltime.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


class Workers(Config):
    """The workers that one executor has on each of its nodes."""

    cores_per_node: Literal["auto"] | PositiveInt = Field(
        "auto", description="cores of a node for these workers; auto: all that this process may use"
    )
    memory_gb_per_node: PositiveFloat | None = Field(None, description="memory of a node (GB); null: not watched")
    cores_per_worker: PositiveInt = Field(1, description="cores of one worker, the most that one task gets")
    accelerators: Literal["auto"] | tuple[Line, ...] = Field(
        (), description="GPUs of a node, in the order in which workers take them, one each; auto: those of this machine"
    )
    affinity: str = Field(
        "none",
        pattern=r"none|block|block-reverse|alternating|list(:[\d,-]+)+",
        description="cores that each worker keeps to, in Parsl's words (cpu_affinity)",
    )
    srun_options: Line = Field("", description="for the srun that starts a worker pool on every node")

    @model_validator(mode="after")
    def _check_affinity(self) -> Workers:
        named = self.affinity.count(":")
        if named and named != self.per_node():
            raise ValueError(f"affinity: it lists cores for {named} workers, and a node has {self.per_node()}")
        return self

    def gpus(self) -> tuple[str, ...]:
        """The GPUs of a node by name."""
        return local_gpus() if self.accelerators == "auto" else self.accelerators

    def cores(self) -> int:
        return len(os.sched_getaffinity(0)) if self.cores_per_node == "auto" else self.cores_per_node

    def per_node(self) -> int:
        """Workers of a node: one a GPU where there are GPUs, else as many as there are cores for."""
        return len(self.gpus()) or max(1, self.cores() // self.cores_per_worker)

    def pool(self, label: str, nodes: int) -> Pool:
        """These workers as the driver sees them, on at most `nodes` nodes."""
        slots = self.per_node() * nodes
        return Pool(
            label,
            slots,
            self.cores_per_worker,
            # Tasks share the cores of one machine as they need them; of several, the driver cannot say who gets which.
            widest=slots if nodes == 1 and not self.gpus() else 1,
            gpus=len(self.gpus()),
            memory_gb=self.memory_gb_per_node and self.memory_gb_per_node * nodes,
        )


class Executor(Workers):
    """Workers in blocks, each a job of the batch system, or on this machine."""

    provider: Literal["local", "slurm", "condor"] = Field("local", description="who gives the nodes")
    launcher: Literal["single", "simple", "srun"] = Field("single", description="what starts the workers of a block")
    nodes_per_block: PositiveInt = 1
    max_blocks: PositiveInt = Field(1, description="blocks at a time; they come and go with the queue of tasks")
    total_blocks: PositiveInt | None = Field(None, description="blocks of one run in all; null: ten times max_blocks")
    walltime: Walltime = Field("00:30:00", description="of a block, HH:MM:SS, in quotes")
    drain_minutes: NonNegativeInt = Field(0, description="before its end a block takes no new tasks; 0: until the end")
    idle_seconds: PositiveInt = Field(120, description="a block without tasks for so long is given back")
    partition: Line | None = None
    constraint: Line | None = None
    account: Line | None = Field(None, description="null: the site's")
    qos: Line | None = Field(None, description="null: the site's")
    cpus_per_node: PositiveInt | None = Field(
        None, description="to ask Slurm for on every node, where it counts otherwise (hyperthreads); null: the cores"
    )
    exclusive: bool = Field(True, description="whole nodes")
    options: tuple[Line, ...] = Field((), description="more options of the batch system's job, one a line, as they are")

    @model_validator(mode="after")
    def _check(self) -> Executor:
        if self.provider != "local" and self.cores_per_node == "auto":
            raise ValueError("cores_per_node: 'auto' is for this machine only; say how many a node has")
        if self.provider != "local" and self.accelerators == "auto":
            raise ValueError("accelerators: 'auto' is for this machine only; name those of a node")
        if self.launcher == "srun" and self.provider == "condor":
            raise ValueError("launcher: srun belongs to Slurm")
        if self.drain_minutes >= minutes_of(self.walltime):
            raise ValueError("drain_minutes: a block that ends before that would never take a task")
        return self

    @property
    def is_here(self) -> bool:
        """Its workers run on this machine."""
        return self.provider == "local" and self.launcher != "srun"

    @property
    def most_blocks(self) -> int:
        """Blocks of one run in all."""
        return self.total_blocks or 10 * self.max_blocks


class Job(Config):
    """One Slurm job that holds a whole run: driver and workers."""

    nodes: PositiveInt = 1
    walltime: Walltime = Field("02:00:00", description="HH:MM:SS, in quotes")
    partition: Line | None = None
    constraint: Line | None = None
    account: Line | None = Field(None, description="null: the site's")
    qos: Line | None = Field(None, description="null: the site's")
    cpus_per_node: PositiveInt = Field(description="to ask Slurm for on every node, as it counts them")
    gpus_per_node: NonNegativeInt = 0
    signal_seconds: PositiveInt = Field(
        120, description="so long before the walltime the run stops, keeps what it has, and the job is requeued"
    )
    options: tuple[Line, ...] = Field((), description="more options of sbatch, one a line, as they are")
    executors: dict[str, Workers] = Field(min_length=1, description="label -> workers on every node of the job")


class Site(Config):
    """What a site file may hold."""

    name: Line
    backend: Literal["parsl", "inline"] = Field("parsl", description="what runs the tasks")
    cores: Literal["auto"] | PositiveInt = Field(
        "auto", description="cores of all tasks at a time; auto: all there are"
    )
    memory_gb: PositiveFloat | None = Field(None, description="memory of all tasks at a time (GB); null: not watched")
    gpus: Literal["auto"] | tuple[Line, ...] = Field("auto", description="GPUs of this machine; auto: all there are")
    per_task: dict[str, PositiveInt] = Field({}, description="stage -> keys of one task")
    ranks: dict[str, PositiveInt] = Field(
        {}, description="stage -> processes of one task, which has its executor to itself; by srun inside a Slurm job"
    )
    minutes_factor: PositiveFloat = Field(1.0, description="multiplies every stage's time limit")
    account: Line | None = Field(None, description="project to charge")
    qos: Line | None = None
    setup: str = Field("", description="shell lines that make lenspipe's command available on a node")
    environment: dict[str, str] = Field({}, description="variables of driver and workers")
    scratch: Line | None = Field(None, description="where runs belong ($VARIABLES allowed); a run elsewhere is told so")
    publish: Line | None = Field(None, description="folder into which finished runs are copied ($VARIABLES allowed)")
    interface: Line | None = Field(None, description="network interface on which workers reach the driver")
    heartbeat_seconds: PositiveInt = Field(30, description="between signs of life of workers and driver")
    lost_seconds: PositiveInt = Field(120, description="without a sign of life a node counts as lost")
    executors: dict[str, Executor] = Field({}, description="label -> executor; none: this machine")
    job: Job | None = Field(None, description="the job that `lenspipe submit` hands to Slurm")
    dagman: Dagman | None = Field(None, description="the DAG that `lenspipe submit` hands to HTCondor")

    @model_validator(mode="after")
    def _check(self) -> Site:
        if self.executors and {"cores", "memory_gb", "gpus"} & self.model_fields_set:
            raise ValueError("cores, memory_gb and gpus are of this machine; executors say their own")
        remote = [label for label, executor in self.executors.items() if executor.provider != "local"]
        if remote and self.interface is None:
            raise ValueError(f"interface: executor {remote[0]} needs one on which its workers reach the driver")
        return self

    def workers(self) -> dict[str, Executor]:
        """Label -> executor; of this machine alone, one for its cores and one for its GPUs."""
        if self.executors:
            return self.executors
        found = {"local": Executor(cores_per_node=self.cores, memory_gb_per_node=self.memory_gb)}
        if gpus := (local_gpus() if self.gpus == "auto" else self.gpus):
            found["gpu"] = Executor(cores_per_node=self.cores, accelerators=gpus)
        return found

    def capacity(self) -> Capacity:
        pools = tuple(e.pool(label, e.max_blocks * e.nodes_per_block) for label, e in self.workers().items())
        return Capacity(pools, self.per_task, self.minutes_factor, self.ranks, self.name)

    def warning(self, folder: Path) -> str:
        """What may become of a run in `folder` that does not lie where runs belong or is not copied; else empty."""
        scratch = os.path.expandvars(self.scratch or "$")
        if "$" in scratch:
            return ""
        if not folder.resolve().is_relative_to(Path(scratch).resolve()):
            return f"{folder} does not lie on {self.scratch}, where runs of site {self.name} belong"
        if self.publish is None:
            return f"{self.scratch} may be purged: copy what you keep, or let `publish` of site {self.name} do so"
        return ""

    def kept_in(self) -> Path | None:
        """Where finished runs are copied to, if anywhere."""
        if self.publish is None:
            return None
        path = os.path.expandvars(self.publish)
        if "$" in path:
            raise LenspipeError(f"site {self.name}: publish: {self.publish} names a variable that is not set.")
        return Path(path)

    def grace_seconds(self) -> float:
        """How long tasks may go on after a job's early signal, so that the driver still ends in time."""
        return max(1.0, (self.job.signal_seconds if self.job else 120) - 30)

    def inside_job(self) -> Site:
        """This site as a driver in one of its jobs sees it: the nodes of that job and no others."""
        if self.job is None:
            raise LenspipeError(f"site {self.name} has no section 'job'.")
        if "SLURM_JOB_NUM_NODES" not in os.environ:
            raise LenspipeError("--allocation: this is not a job of Slurm (SLURM_JOB_NUM_NODES is not set).")
        nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
        executors = {
            label: Executor(**dict(workers), provider="local", launcher="srun", nodes_per_block=nodes)
            for label, workers in self.job.executors.items()
        }
        return self.model_copy(update={"executors": executors})


def local_gpus() -> tuple[str, ...]:
    """GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES knows."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name for name in chosen.split(",") if name and name != "-1")
    return tuple(sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")))


def load_site(text: str, stages: Sequence[str], sets: Sequence[str] = ()) -> Site:
    """The site in file `text`, or of that name among those that come with lenspipe.

    Parameters
    ----------
    stages : names that ``per_task`` may hold.
    sets : overrides, ``account=VALUE`` or ``job.nodes=VALUE``, each VALUE read as YAML.
    """
    path = find(text, WORKFLOWS / "sites", "site")
    data: Any = read_yaml(path)
    parse(Site, data, str(path))
    for override in sets:
        keys, value = split_set(override)
        put(data, keys, value, override)
    site = parse(Site, data, str(path))
    for option in ("per_task", "ranks"):
        for name in getattr(site, option):
            if name not in stages:
                raise LenspipeError(f"{path}: {option}: there is no stage {name!r}{nearest(name, list(stages))}")
    return site


def find(text: str, folder: Path, what: str) -> Path:
    """File `text`, or ``folder/text.yaml``."""
    if Path(text).is_file():
        return Path(text)
    path = folder / f"{text}.yaml"
    if Path(text).name == text and path.is_file():
        return path
    names = sorted(item.stem for item in folder.glob("*.yaml"))
    raise LenspipeError(f"{text}: there is no such file, nor a {what} of that name{nearest(text, names)}")
