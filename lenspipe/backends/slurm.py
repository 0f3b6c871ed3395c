"""Slurm by its own commands: names of a run's jobs, and the end of them."""

from __future__ import annotations

import getpass
import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lenspipe.errors import LenspipeError

PATIENCE = 120
"""Seconds for one of Slurm's commands; a busy controller is slow."""


def job_name(root: Path) -> str:
    """How all jobs of the run in folder `root` are named; blocks add to it."""
    return f"lenspipe-{hashlib.blake2b(str(root.resolve()).encode(), digest_size=5).hexdigest()}"


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
