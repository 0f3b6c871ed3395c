"""HTCondor's own commands, and the blocks that are its jobs, by the name of their batch."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lenspipe.errors import LenspipeError

_PATIENCE = 300
"""Seconds for one command; a DAG of many nodes takes its time."""
_ALIVE = "JobStatus =!= 3 && JobStatus =!= 4"
"""Neither removed nor completed."""


def call(*argv: str, folder: Path | None = None) -> str:
    """What a command says; `LenspipeError` with its own words where it fails."""
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE)
    except FileNotFoundError:
        raise LenspipeError(f"{argv[0]}: there is no such command here; is this a machine with HTCondor?") from None
    except subprocess.TimeoutExpired:
        raise LenspipeError(f"{argv[0]} did not answer within {_PATIENCE} s.") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise LenspipeError(f"{' '.join(argv)}: {said}")
    return done.stdout


def jobs(prefix: str) -> list[str]:
    """Ids of the jobs in the queue whose batch is `prefix` or goes on after it with a ``-``."""
    mine = f'regexp("^{prefix}(-|$)", JobBatchName ?: "") && {_ALIVE}'
    return call("condor_q", "-constraint", mine, "-af:j", "ClusterId").split()[::2]


def cancel(prefix: str) -> list[str]:
    """End these jobs; their ids."""
    if found := jobs(prefix):
        call("condor_rm", *found)
    return found
