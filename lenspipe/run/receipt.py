"""Receipts: what went into a unit, what came out, and with which versions."""

from __future__ import annotations

import os
import platform
import socket
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lenspipe import __version__
from lenspipe.io.atomic import write_json
from lenspipe.run.fingerprint import options_hash, shared_options
from lenspipe.run.folder import config_path, receipt_path
from lenspipe.stage import Stage, Task

SCHEMA = 1
_PACKAGES = ("numpy", "scipy", "astropy", "h5py", "torch", "lenstronomy", "emcee", "parsl")
_LEAN = (
    *("corridor", "stage", "key", "status", "reason", "detail", "config_hash", "own", "seed", "version"),
    *("inputs", "outside", "outputs", "failed", "seconds", "attempt", "log"),
)


@cache
def versions() -> dict[str, str]:
    """Of Python, lenspipe and the packages that results depend on."""
    found = {"python": platform.python_version(), "lenspipe": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_receipt(
    root: Path,
    task: Task,
    key: str,
    *,
    stage: Stage,
    own: str,
    inputs: dict[str, str],
    outside: dict[str, dict[str, Any]],
    outputs: dict[str, dict[str, Any]],
    began: float,
    status: str = "ok",
    reason: str = "",
    detail: str = "",
    failed: dict[str, dict[str, str]] | None = None,
    figures: Any = None,
    log: str = "",
) -> dict[str, Any]:
    """Write one unit's receipt, and the options behind its hash if they are new; return what the ledger keeps.

    Parameters
    ----------
    own : hash of what the options say of this key alone, or empty.
    inputs : ``product`` or ``product/key`` -> content hash.
    outside : path of a file that the options name -> ``hash, size, mtime_ns``.
    outputs : ``product`` or ``product/key`` -> ``path, hash, size, mtime_ns``.
    began : seconds since the epoch.
    """
    config = shared_options(stage, task.config)
    digest = options_hash(config)
    if not config_path(root, digest).exists():
        write_json(config_path(root, digest), config)
    receipt = {
        "schema": SCHEMA,
        "corridor": task.corridor,
        "stage": task.stage,
        "key": key,
        "status": status,
        "reason": reason,
        "detail": detail,
        "config_hash": digest,
        "own": own,
        "seed": task.seed,
        "version": stage.version,
        "inputs": inputs,
        "outside": outside,
        "outputs": outputs,
        "failed": failed or {},
        "figures": figures or {},
        "began": began,
        "seconds": round(time.time() - began, 3),
        "attempt": task.attempt,
        "log": log,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "versions": versions(),
    }
    write_json(receipt_path(root, task.corridor, task.stage, key), receipt)
    return lean(receipt)


def lean(receipt: dict[str, Any]) -> dict[str, Any]:
    """What the ledger needs of a receipt to say whether the unit is done."""
    return {name: receipt[name] for name in _LEAN if name != "own" or name in receipt}
