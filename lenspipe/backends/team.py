"""A task for several processes: the worker's child starts them with the launcher of the place where it is.

``python -m lenspipe.backends.team ROOT REGISTRY TASK RESULT`` is what the launcher starts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lenspipe.backends.slurm import outside_of_jobs
from lenspipe.errors import LenspipeError, Reason
from lenspipe.io.atomic import write_json
from lenspipe.ranks import Talk, opened
from lenspipe.run.execute import execute, limit_threads
from lenspipe.run.folder import STATE, log_path
from lenspipe.stage import Task


def perform_together(task: Task, root: Path, registry: str) -> dict[str, Any]:
    """What `execute` returns on the first of ``task.ranks`` processes; ``died`` where they did not live to say it."""
    talk = import_module(registry).get(task.stage).talk
    if not talk:
        return {
            "receipts": [],
            "mistake": f"{task.stage} is the work of one process; the site says {task.ranks} ranks.",
        }
    # On the run's filesystem: ranks may be on other nodes.
    with tempfile.TemporaryDirectory(dir=root / STATE, prefix="team-") as folder:
        file, result = Path(folder) / "task.json", Path(folder) / "result.json"
        write_json(file, task.to_json())
        try:
            launcher = command(talk, task, os.environ)
        except LenspipeError as error:
            return {"receipts": [], "mistake": str(error)}
        argv = [sys.executable, "-m", "lenspipe.backends.guard", "--gently", *launcher]
        argv += ["-m", "lenspipe.backends.team", str(root), registry, str(file), str(result)]
        code = subprocess.run(argv, env=outside_of_teams(os.environ)).returncode
        if result.exists():
            found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return found
    where = log_path(Path(), task).as_posix()
    return died(
        Reason.TASK_CRASHED,
        f"One of its {task.ranks} processes was lost ({Path(launcher[0]).name} ended with {code}; {where}).",
    )


def command(talk: Talk, task: Task, environment: Mapping[str, str]) -> list[str]:
    """The launcher, up to and including Python: ``srun`` in a Slurm job, else what this machine has."""
    if job := environment.get("SLURM_JOB_ID"):
        nodes = min(task.ranks, int(environment.get("SLURM_JOB_NUM_NODES", "1")))
        # The workers' own steps hold the job's cores and GPUs; this one shares them.
        argv = ["srun", f"--jobid={job}", "--overlap", f"--nodes={nodes}", f"--ntasks={task.ranks}"]
        argv += [f"--cpus-per-task={task.cpus}", "--cpu-bind=none", "--gpu-bind=none", "--kill-on-bad-exit=1"]
        return [*argv, *(["--mpi=pmi2"] if talk == "mpi" else []), sys.executable]
    if talk == "torch":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={task.ranks}"]
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        raise LenspipeError(f"{task.stage}: {task.ranks} ranks need mpirun: pip install 'lenspipe[mpi]'.")
    return [mpirun, "-n", str(task.ranks), sys.executable]


def outside_of_teams(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without what tells a worker its place in its own step, and which single GPU is its own."""
    return {key: value for key, value in outside_of_jobs(environment).items() if key != "CUDA_VISIBLE_DEVICES"}


def died(reason: Reason, detail: str) -> dict[str, Any]:
    """The outcome of a task whose process did not live to write receipts."""
    return {"receipts": [], "died": {"reason": reason.value, "detail": detail}}


def main(root: str, registry: str, file: str, result: str) -> None:
    task = Task.from_json(json.loads(Path(file).read_text(encoding="utf-8")))
    stage = import_module(registry).get(task.stage)
    limit_threads(task.cpus)
    with opened(stage.talk, task.stage) as ranks:
        if ranks.rank:
            ranks.serve()
        else:
            write_json(Path(result), execute(task, stage, Path(root)))


if __name__ == "__main__":
    main(*sys.argv[1:])
