"""What a machine has to say of itself, as the driver finds it at home and as a task finds it on a worker."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import uuid
from pathlib import Path
from typing import Any

from lenspipe.config import Config
from lenspipe.errors import LenspipeError
from lenspipe.products import Product
from lenspipe.run.receipt import versions
from lenspipe.stage import Inputs, Outputs, Resources, Stage

FACTS = Product("facts", "facts.json")
_CONTAINERS = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "SHIFTER_IMAGEREQUEST", "CONTAINER_IMAGE")
_GB = 1e9


def facts(folder: Path) -> dict[str, Any]:
    """What the checks of `lenspipe.backends.doctor` look at; `folder` is where a run would lie.

    An entry that ends in ``_error`` is a sentence where something does not work, else empty.
    """
    from lenspipe.lensing import kernel

    return {
        "host": socket.gethostname(),
        "versions": versions(),
        "kernel": kernel.instruction_sets(),
        "kernel_used": kernel.available(),
        "cores": len(os.sched_getaffinity(0)),
        "cores_allowed": _cores_allowed(),
        "memory_gb": _memory_gb(),
        "disk_gb": shutil.disk_usage(folder).free / _GB,
        "files_left": _files_left(folder),
        "folder_error": _try(_write_and_link, folder),
        "hdf5_error": _try(_lock_hdf5, folder),
        "hdf5_locking": os.environ.get("HDF5_USE_FILE_LOCKING", ""),
        "scratch": tempfile.gettempdir(),
        "scratch_error": _try(_write_and_link, Path(tempfile.gettempdir())),
        "container": _container(),
        **_gpus(),
    }


def _write_and_link(folder: Path) -> None:
    """What products and the lock need: write, rename, link."""
    first = folder / f".lenspipe-{uuid.uuid4().hex}"
    second, third = first.with_suffix(".b"), first.with_suffix(".c")
    try:
        first.write_text("a", encoding="utf-8")
        os.replace(first, second)
        os.link(second, third)
    finally:
        for path in (first, second, third):
            path.unlink(missing_ok=True)


def _lock_hdf5(folder: Path) -> None:
    """Write an HDF5 file and read it again, as every stage does."""
    import h5py

    path = folder / f".lenspipe-{uuid.uuid4().hex}.h5"
    try:
        with h5py.File(path, "w") as file:
            file["a"] = [1]
        with h5py.File(path) as file:
            file["a"][:]
    finally:
        path.unlink(missing_ok=True)


def _try(what: Any, folder: Path) -> str:
    try:
        what(folder)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _files_left(folder: Path) -> int | None:
    """Inodes left; None where the filesystem does not count them."""
    found = os.statvfs(folder)
    return found.f_favail if found.f_files else None


def _cgroup(name: str) -> list[str]:
    """The words of a limit of this process' control group (version 2), none where there is none."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition(":")[2]
        words = Path(f"/sys/fs/cgroup{own.rstrip('/')}/{name}").read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [] if words[:1] == ["max"] else words


def _cores_allowed() -> float | None:
    """CPU time per wall time that a limit leaves; None without a limit."""
    words = _cgroup("cpu.max")
    return int(words[0]) / int(words[1]) if words else None


def _memory_gb() -> float:
    """Memory that is free, within the limit if there is one."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    return min([free, *([int(limit[0]) - int(used[0])] if limit and used else [])]) / _GB


def _gpus() -> dict[str, Any]:
    import torch

    there = torch.cuda.is_available()
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if there else []
    return {
        "gpus": [gpu.name for gpu in found],
        "gpu_memory_gb": [gpu.total_memory / _GB for gpu in found],
        "gpu_devices": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "gpus_chosen": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "torch_cuda": torch.version.cuda,
    }


def _container() -> str:
    """The image that this process runs in, as far as it can be known; empty outside of any."""
    named = next((os.environ[name] for name in _CONTAINERS if os.environ.get(name)), "")
    inside = any(Path(path).exists() for path in ("/run/.containerenv", "/.dockerenv"))
    return named or ("an image without a name" if inside else "")


def run(config: Config, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    outputs["facts"].write_text(json.dumps(facts(outputs["facts"].parent)), encoding="utf-8")
    return {}


STAGE = Stage("probe", (), (FACTS,), Config, run, resources=Resources(minutes=5), summary="Say what is here.")


def get(name: str) -> Stage:
    """A registry of one stage, for workers."""
    if name != STAGE.name:
        raise LenspipeError(f"there is no stage {name!r}.")
    return STAGE
