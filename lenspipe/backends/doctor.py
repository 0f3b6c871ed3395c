"""``lenspipe doctor``: what stands in the way of a run, here and on the workers of a site, and what to do about it."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as OutOfTime
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lenspipe.backends.dagman.options import Dagman
from lenspipe.backends.probe import get
from lenspipe.backends.site import Site
from lenspipe.errors import LenspipeError
from lenspipe.run.folder import STATE
from lenspipe.stage import Task

Facts = dict[str, Any]
_MUST_AGREE = ("lenspipe", "python", "parsl")
"""Parsl sends pickles; a DAGMan job gets JSON, so that there `lenspipe` alone must agree."""
_SHOULD_AGREE = ("numpy", "scipy", "torch", "h5py", "astropy", "emcee")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    where : ``here``, or the label of an executor.
    level : ``ok``, ``warn`` (a run works, slower or with less) or ``fail``.
    found : what there is.
    todo : what to do about it; empty where all is well.
    """

    where: str
    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    todo: str = ""


def examine(where: str, it: Facts) -> Iterator[Check]:
    """What the facts of one machine mean."""

    def check(name: str, found: str, *wrong: tuple[bool, Literal["warn", "fail"], str]) -> Check:
        for holds, level, todo in wrong:
            if holds:
                return Check(where, name, level, found, todo)
        return Check(where, name, "ok", found)

    named = ", ".join(f"{name} {version}" for name, version in it["versions"].items())
    lacking = [name for name in _MUST_AGREE + _SHOULD_AGREE if name not in it["versions"]]
    yield check("versions", named, (bool(lacking), "fail", f"install {', '.join(lacking)}: pip install lenspipe"))
    yield check(
        "kernel",
        f"{it['kernel'][0]} (of {', '.join(it['kernel'])})" if it["kernel"] else "not built",
        (not it["kernel"], "warn", "fits run on torch, several times slower: install g++, then lenspipe once more"),
        (not it["kernel_used"], "warn", "LENSPIPE_KERNEL switches it off: unset it"),
    )
    allowed = it["cores_allowed"]
    yield check(
        "cores",
        f"{it['cores']}" + (f", of which a limit leaves {allowed:g}" if allowed else ""),
        (
            allowed is not None and allowed < it["cores"] - 0.5,
            "warn",
            f"write `cores: {max(1, int(allowed or 0))}` into the site, or raise the limit",
        ),
    )
    memory = it["memory_gb"]
    yield check(
        "memory",
        f"{memory:.1f} GB free",
        (memory < 1, "fail", "a fit needs 1 GB, training 3 GB: end other programs or ask for more memory"),
        (memory < it["cores"], "warn", f"write `memory_gb: {memory:.0f}` into the site: fewer tasks at a time"),
    )
    left = it["files_left"]
    yield check(
        "disk",
        f"{it['disk_gb']:.0f} GB free" + (f", room for {left} files" if left is not None else ""),
        (it["disk_gb"] < 1 or left == 0, "fail", "free some, or choose another folder with --out"),
        (it["disk_gb"] < 10, "warn", "enough for a demo; docs/sizing.md says what a survey takes"),
    )
    yield check(
        "folder",
        it["folder_error"] or "files can be written, renamed and linked",
        (bool(it["folder_error"]), "fail", "choose a folder of yours on a filesystem with hard links, with --out"),
    )
    setting = f" (HDF5_USE_FILE_LOCKING={it['hdf5_locking']})" if it["hdf5_locking"] else ""
    yield check(
        "hdf5",
        (it["hdf5_error"] or "files can be written and read again") + setting,
        (bool(it["hdf5_error"]), "fail", 'set HDF5_USE_FILE_LOCKING: "FALSE" under `environment` of the site'),
    )
    yield check(
        "scratch",
        f"{it['scratch']}: {it['scratch_error'] or 'writable'}",
        (bool(it["scratch_error"]), "fail", "set TMPDIR to a folder of yours, under `environment` of the site"),
    )
    without = "none, so everything runs on CPUs"
    if it["torch_cuda"]:
        without += f" (torch is for CUDA {it['torch_cuda']}; a container sees GPUs only if it was started with them)"
    unseen = it["gpu_devices"] and not it["gpus"] and it["gpus_chosen"] not in ("", "-1")
    seen = [f"{name}, {memory:.0f} GB" for name, memory in zip(it["gpus"], it["gpu_memory_gb"])]
    none = f"{it['gpu_devices']} that torch does not see" if unseen else without
    yield check(
        "gpus",
        f"{'; '.join(seen)} (torch for CUDA {it['torch_cuda']})" if seen else none,
        (bool(unseen and not it["torch_cuda"]), "warn", "install torch with CUDA, or take the image's variant cuda"),
        (bool(unseen), "warn", "torch has CUDA: its driver may be too old, or the container was started without GPUs"),
    )
    if seen:
        yield check("fits together", _together(min(it["gpu_memory_gb"]) * 1e9))
    yield check("container", it["container"] or "none")


def _together(memory: float) -> str:
    """What a task of the stage `model` does at once on a GPU with so many bytes."""
    from lenspipe.infer.batch.memory import MOST, at_once, budget
    from lenspipe.infer.config import FitConfig

    temporaries = budget(memory, None, "cuda")
    small, large = (at_once(memory, temporaries, (n, n), bands, FitConfig()) for n, bands in ((45, 3), (201, 1)))
    sizes = f"{small} with three bands of 45x45 pixels, {large} with one of 201x201"
    return f"a task of `model` takes up to {MOST} candidates, at once {sizes}"


def compare(where: str, home: Facts, there: Facts, must: tuple[str, ...] = _MUST_AGREE) -> Iterator[Check]:
    """What must be, or better is, the same on both sides."""
    same = "take the same installation or image on both sides: `setup` or `image` of the site says which"
    mine, its = (
        {**it["versions"], "python": it["versions"]["python"].rpartition(".")[0]}  # its minor version
        for it in (home, there)
    )
    other = [name for name in (*_MUST_AGREE, *_SHOULD_AGREE) if mine.get(name) != its.get(name)]
    said = ", ".join(f"{name} {mine.get(name)} here, {its.get(name)} there" for name in other)
    if set(other) & set(must):
        yield Check(where, "same versions", "fail", said, same)
    elif other:
        yield Check(where, "same versions", "warn", said, f"results may differ in the last digits: {same}")
    else:
        yield Check(where, "same versions", "ok", "as here")
    if home["container"] and not there["container"]:
        said = f"the driver runs in {home['container']}, the worker in none"
        yield Check(where, "same container", "warn", said, same)


def there(site: Site, out: Path, minutes: float, home: Facts) -> list[Check]:
    """A real task on a real worker of each executor of `site`, by the way that a run would take.

    Parameters
    ----------
    minutes : patience with the batch system's queue.
    home : `facts` of this machine.
    """
    folder = out.resolve() / f".lenspipe-doctor-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    found: list[Check] = []
    try:
        if site.dagman is not None:
            found += _by_htcondor(site, site.dagman, folder, minutes, home)
        else:
            with _open(site, folder) as backend:
                if warning := site.warning(out):
                    found.append(Check(site.name, "place", "warn", warning, "choose --out, or `publish` of the site"))
                labels = list(site.workers())
                began, end = time.monotonic(), time.monotonic() + 60 * minutes
                sent = {label: backend.submit(_task(label, site), label) for label in labels}
                for label, future in sent.items():
                    found += _answer(label, future, folder, site, home, end, began)
    except LenspipeError as error:
        todo = "mend the site, or override a key with --site-set KEY=VALUE; docs/adding-a-site.md explains them"
        found.append(Check(site.name, "start", "fail", str(error), todo))
    if all(check.level != "fail" for check in found):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        found.append(Check(site.name, "logs", "warn", str(folder), "remove the folder when you have read them"))
    return found


def _by_htcondor(site: Site, settings: Dagman, folder: Path, minutes: float, home: Facts) -> Iterator[Check]:
    """A job of HTCondor's own, in the image in which fits will run."""
    from lenspipe.backends.dagman.probe import ask

    began = time.monotonic()
    job, answer = ask(site, settings, folder, minutes)
    passed = f"{(time.monotonic() - began) / 60:.1f} min"
    image = f"Is there `image` ({settings.image}) under that name, and in it" if settings.image else "Is there on it"
    look = f"{image} `executable` ({settings.executable})? See {folder / 'probe.err'} and probe.log"
    if answer is not None:
        there: Facts = answer["facts"]
        yield Check("condor", "worker", "ok", f"{there['host']} answered after {passed}")
        yield from compare("condor", home, there, must=("lenspipe",))
        if settings.image and not there["container"]:
            todo = (
                "the pool may lack Apptainer: ask its people, or set `image: null` and install lenspipe on the workers"
            )
            yield Check("condor", "image", "fail", f"the job ran outside of {settings.image}", todo)
        yield from examine("condor", there)
    elif job.state in ("idle", "running"):
        todo = f"condor_q -better-analyze {job.id} says what it waits for; then more --minutes, or mend `requirements`"
        yield Check("condor", "worker", "fail", f"the job was {job.state} after {passed} and is removed", todo)
    else:
        yield Check("condor", "worker", "fail", f"the job {job.id} was {job.state}: {job.detail}", look)


def _open(site: Site, folder: Path) -> AbstractContextManager[Any]:
    if site.backend == "inline":
        from lenspipe.backends.inline import open_inline

        return open_inline(folder, get)
    from lenspipe.backends.parsl import open_parsl

    return open_parsl(folder, get.__module__, site)


def _task(label: str, site: Site) -> Task:
    cpus = site.workers()[label].cores_per_worker
    return Task("probe", label, ("",), {}, {}, {"facts": f"{label}.json"}, seed=0, cpus=cpus, minutes=5)


def _answer(
    label: str, future: Future[dict[str, Any]], folder: Path, site: Site, home: Facts, end: float, began: float
) -> Iterator[Check]:
    executor = site.workers()[label]
    asks = {"slurm": "squeue --me", "condor": "condor_q -better-analyze"}.get(executor.provider)
    look = f"look at {asks} and at" if asks else "look at"
    logs = f"{look} {folder / STATE / 'parsl'}; does `setup` of the site find lenspipe on a node?"
    try:
        outcome = future.result(timeout=max(0.0, end - time.monotonic()))
    except OutOfTime:
        yield Check(label, "worker", "fail", f"no answer within {(time.monotonic() - began) / 60:.1f} min", logs)
        return
    except Exception as error:  # whatever broke: the backend's own words are the finding
        todo = f"if the job was refused, mend what is named there in the site (account, qos, ...); else {logs}"
        yield Check(label, "worker", "fail", f"{type(error).__name__}: {error}", todo if asks else logs)
        return
    died = outcome.get("died") or next((r for r in outcome["receipts"] if r["status"] == "failed"), None)
    if died:
        logs = f"read {folder / STATE / 'logs'}"
        yield Check(label, "worker", "fail", f"{died['reason']}: {died['detail']}", logs)
        return
    path = folder / f"{label}.json"
    if not path.exists():
        todo = f"choose with --out a folder that all nodes share; {folder.parent} is not such"
        yield Check(label, "worker", "fail", "it answered, and what it wrote is not here", todo)
        return
    there: Facts = json.loads(path.read_text(encoding="utf-8"))
    seconds = time.monotonic() - began
    way = "" if site.backend == "inline" else f" over {site.interface or 'loopback'}"
    yield Check(label, "worker", "ok", f"{there['host']} answered{way} after {seconds:.0f} s")
    yield from compare(label, home, there)
    if executor.gpus() and not there["gpus"]:
        todo = "name only GPUs that a node has in `accelerators`, and let torch on the node have CUDA"
        yield Check(label, "accelerators", "fail", f"the site says {', '.join(executor.gpus())}; torch sees none", todo)
    elif (devices := there["gpu_devices"]) and (named := len(executor.gpus())) > devices and named % devices:
        todo = f"name each of the node's {devices} GPUs in `accelerators`, all equally often"
        yield Check(label, "accelerators", "fail", f"the site names {named} for {devices} GPUs", todo)
    yield from examine(label, there)


def show(checks: list[Check]) -> str:
    """A line for each check, and what to do below those that are not well."""
    lines, where = [], ""
    for check in checks:
        if check.where != where:
            where = check.where
            lines.append(where)
        lines.append(f"  {check.level:4}  {check.name}: {check.found}")
        if check.todo:
            lines.append(f"        -> {check.todo}")
    return "\n".join(lines)
