"""Slurm by its own commands: the job that holds a whole run, the names of a run's jobs, and the end of them."""

from __future__ import annotations

import getpass
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import lenspipe
from lenspipe.backends.site import Site
from lenspipe.errors import LenspipeError
from lenspipe.run.folder import STATE

TEMPLATE = Path(lenspipe.__file__).parent / "jobs/driver.sbatch"

PATIENCE = 120
"""Seconds for one of Slurm's commands; a busy controller is slow."""


def job_name(root: Path) -> str:
    """How all jobs of the run in folder `root` are named; blocks add to it."""
    return f"lenspipe-{hashlib.blake2b(str(root.resolve()).encode(), digest_size=5).hexdigest()}"


def driver_job(site: Site, root: Path, arguments: Sequence[str]) -> str:
    """Text of the job that holds a whole run: `TEMPLATE` with what the site says.

    Parameters
    ----------
    arguments : of ``lenspipe run``.
    """
    job = site.job
    if job is None:
        raise LenspipeError(f"site {site.name} has no section 'job', which says what to ask Slurm for.")
    wanted = {
        "--job-name": job_name(root),
        "--output": root.resolve() / STATE / "logs" / "driver-%j.log",
        "--account": job.account or site.account,
        "--qos": job.qos or site.qos,
        "--partition": job.partition,
        "--constraint": job.constraint,
        "--nodes": job.nodes,
        "--cpus-per-task": job.cpus_per_node,
        "--gpus-per-node": job.gpus_per_node or None,
        "--time": job.walltime,
        "--signal": f"B:USR1@{job.signal_seconds}",
    }
    options = [f"{name}={value}" for name, value in wanted.items() if value is not None]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in site.environment.items()]
    path = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    fill = {
        "#@options": [f"#SBATCH {option}" for option in (*options, *job.options)],
        "#@setup": [*site.setup.strip().splitlines(), *exports, path],
        "#@arguments": [f"set -- {shlex.join(arguments)}"],
    }
    lines: list[str] = []
    for line in TEMPLATE.read_text(encoding="utf-8").splitlines():
        if line.removeprefix("#SBATCH ").split("=")[0] not in wanted:  # said again by the site
            lines += fill.get(line, [line])
    return "".join(f"{line}\n" for line in lines)


def submit(text: str) -> str:
    """Hand a job to Slurm; its id."""
    return call(["sbatch", "--parsable"], text).split(";")[0].strip()


def outside_of_jobs(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without what a job leaves there: a job submitted from inside another would inherit its layout."""
    kept = ("SLURM_CONF", "SBATCH_ACCOUNT")
    return {k: v for k, v in environment.items() if k in kept or not k.startswith(("SLURM_", "SBATCH_"))}


def call(argv: Sequence[str], text: str = "") -> str:
    """What one of Slurm's commands prints; `LenspipeError` with its own words where it fails."""
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=PATIENCE, env=outside_of_jobs(os.environ)
        )
    except FileNotFoundError:
        raise LenspipeError(f"{argv[0]}: there is no such command here; is this a machine with Slurm?") from None
    except subprocess.TimeoutExpired:
        raise LenspipeError(f"{argv[0]} did not answer within {PATIENCE} s.") from None
    if done.returncode:
        raise LenspipeError(f"{argv[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def jobs(prefix: str) -> dict[str, str]:
    """Job id -> name of one's own jobs, waiting or running, whose name is `prefix` or goes on after it with a ``-``."""
    lines = call(["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i %j"]).splitlines()
    found = dict(line.strip().split(" ", 1) for line in lines if line.strip())
    return {job: name for job, name in found.items() if name == prefix or name.startswith(f"{prefix}-")}


def cancel(prefix: str) -> list[str]:
    """End these jobs; their ids."""
    found = list(jobs(prefix))
    if found:
        call(["scancel", *found])
    return found
