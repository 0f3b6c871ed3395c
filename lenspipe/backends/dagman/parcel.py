"""A parcel: a batch of one stage's units that travels to a machine without a shared filesystem, and back as one tar.

On the worker the sandbox is a run folder in small: the paths of a task hold there as they do at home. What comes back
is trusted no further than it was foreseen: only files that the task named, with the hashes that their receipts state.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from lenspipe import __version__
from lenspipe.backends.child import Child
from lenspipe.config import Config, parse
from lenspipe.errors import LenspipeError
from lenspipe.io.atomic import commit, content_hash, discard, replacing, write_json
from lenspipe.run.driver import TRIES
from lenspipe.run.execute import give_up, label
from lenspipe.run.fingerprint import options_hash, shared_options, stamp
from lenspipe.run.folder import config_path, log_path, receipt_path
from lenspipe.run.workflow import GetStage
from lenspipe.stage import Stage, Task

FORMAT = 1
CHECKPOINT = 85
"""Exit code: what is done so far is in the tar, start me again."""
MISTAKE = 2
"""Exit code: nothing helps but a person."""


class ParcelFile(Config):
    """What a parcel's file holds.

    Attributes
    ----------
    lenspipe, stage_version : at home; a worker with others makes something else.
    checkpoint_minutes : work that an eviction may cost.
    """

    format: int
    lenspipe: str
    stage_version: int
    checkpoint_minutes: float
    task: dict[str, Any]
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parcel:
    """Attributes: `extra` files travel with it besides the inputs of `task`, relative to the run folder."""

    task: Task
    stage: Stage
    checkpoint_minutes: float
    extra: tuple[str, ...] = ()

    def single(self, key: str, attempt: int = 1) -> Task:
        """The task for one of the keys."""
        task = self.task

        def only(found: dict[str, Any]) -> dict[str, Any]:
            return {
                name: {k: path for k, path in where.items() if k == key} if isinstance(where, dict) else where
                for name, where in found.items()
            }

        return replace(task, keys=(key,), inputs=only(task.inputs), outputs=only(task.outputs), attempt=attempt)

    def receipt(self, key: str) -> str:
        return receipt_path(Path(), self.task.corridor, self.task.stage, key).as_posix()

    def outputs(self, key: str) -> dict[str, tuple[str, bool]]:
        """Label -> path of one key's output, and whether it is a folder."""
        return {
            label(product.name, key): (self.task.outputs[product.name][key], product.directory)
            for product in self.stage.outputs
        }

    def checkpoints(self, key: str) -> list[str]:
        """Where a unit that is under way keeps what it would go on from: beside each of its outputs."""
        found = [PurePosixPath(path) for path, _ in self.outputs(key).values()]
        return [path.with_name(f".{path.name}.checkpoint.npz").as_posix() for path in found]

    def logs(self, key: str) -> list[str]:
        return [log_path(Path(), self.single(key, attempt)).as_posix() for attempt in range(1, TRIES + 1)]


def write_parcel(path: Path, parcel: Parcel) -> None:
    """What `read_parcel` reads."""
    data = {
        "format": FORMAT,
        "lenspipe": __version__,
        "stage_version": parcel.stage.version,
        "checkpoint_minutes": parcel.checkpoint_minutes,
        "task": parcel.task.to_json(),
        "extra": parcel.extra,
    }
    write_json(path, data)


def read_parcel(path: Path, get: GetStage) -> Parcel:
    """`LenspipeError` where it is none, or of another version than this lenspipe."""
    try:
        file = parse(ParcelFile, json.loads(path.read_text(encoding="utf-8")), str(path))
        task = Task.from_json(file.task)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LenspipeError(f"{path}: not a parcel: {error}.") from None
    stage = get(task.stage)
    for what, theirs, ours in (
        ("format of a parcel", file.format, FORMAT),
        ("version of lenspipe", file.lenspipe, __version__),
        (f"version of stage {stage.name}", file.stage_version, stage.version),
    ):
        if theirs != ours:
            raise LenspipeError(f"{path}: the {what} is {theirs} there and {ours} here; both must be the same.")
    return Parcel(task, stage, file.checkpoint_minutes, file.extra)


# -- on the worker ----------------------------------------------------------------------------------------------


def work(path: Path, root: Path, tar: Path, registry: str, get: GetStage) -> int:
    """Work through a parcel in sandbox `root`; returns the exit code.

    Each key runs on its own in a child process, so the one that kills it is found here. ``tar`` exists from the
    first moment on, and after a `CHECKPOINT` holds what the next start goes on from.
    """
    _keep_to_sandbox(root)
    if tar.exists():
        _resume(tar, root)
    try:
        parcel = read_parcel(path, get)
    except LenspipeError as error:
        print(error, file=sys.stderr)
        _pack(tar, root, ())
        return MISTAKE
    _pack(tar, root, [*_done(parcel, root), *_under_way(parcel, root)])
    code = _work(parcel, root, registry)
    _pack(tar, root, [*_done(parcel, root), *(_under_way(parcel, root) if code == CHECKPOINT else ())])
    return code


def _work(parcel: Parcel, root: Path, registry: str) -> int:
    child = Child()
    began, end = time.time(), time.monotonic() + parcel.checkpoint_minutes * 60
    left = [key for key in parcel.task.keys if not (root / parcel.receipt(key)).exists()]
    try:
        for key in left:
            if time.monotonic() > end and key != left[0]:  # every start gets somewhere
                return CHECKPOINT
            kept = [root / path for path in parcel.checkpoints(key)]

            def worth_a_checkpoint(kept: list[Path] = kept) -> bool:
                return time.monotonic() > end and any(p.exists() and p.stat().st_mtime > began for p in kept)

            for attempt in range(1, TRIES + 1):
                task = parcel.single(key, attempt)
                result = child.perform(task, root, registry, worth_a_checkpoint)
                if "stopped" in result:
                    return CHECKPOINT
                if mistake := result.get("mistake"):
                    print(mistake, file=sys.stderr)
                    return MISTAKE
                if not (died := result.get("died")):
                    break
                print(f"{key}: {died['detail']}", file=sys.stderr)
                if attempt == TRIES:
                    give_up(task, parcel.stage, root, died["reason"], died["detail"])
    finally:
        child.close()
    return 0


def _keep_to_sandbox(root: Path) -> None:
    """Libraries that keep caches at home find one here: a worker's account may have none."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        os.environ[name] = str(root / ".cache")
    (root / ".cache").mkdir(exist_ok=True)


def _resume(tar: Path, root: Path) -> None:
    """Lay out what an earlier start has done; a tar that cannot be read costs its work, no more."""
    try:
        with tarfile.open(tar) as stream:
            stream.extractall(root, filter="data")
    except (OSError, tarfile.TarError) as error:
        print(f"{tar}: {error}; starting anew", file=sys.stderr)


def _pack(tar: Path, root: Path, paths: Iterable[str]) -> None:
    """Files and folders of `root`, under the paths that they have there."""
    with replacing(tar) as temp, tarfile.open(temp, "w") as stream:
        for path in paths:
            if (root / path).exists():
                stream.add(root / path, path)


def _done(parcel: Parcel, root: Path) -> Iterator[str]:
    """What a key leaves that has come to its end."""
    for key in parcel.task.keys:
        if (root / parcel.receipt(key)).exists():
            yield from (path for path, _ in parcel.outputs(key).values())
            yield from parcel.logs(key)
            yield parcel.receipt(key)


def _under_way(parcel: Parcel, root: Path) -> Iterator[str]:
    """What a key would go on from that has not."""
    for key in parcel.task.keys:
        if not (root / parcel.receipt(key)).exists():
            yield from parcel.checkpoints(key)


# -- at home ----------------------------------------------------------------------------------------------------


def take_in(parcel: Parcel, tar: Path, root: Path) -> dict[str, str]:
    """Put what came back in `tar` where it belongs in run folder `root`.

    Returns
    -------
    key -> why it has not come back. Of a key that has, outputs and then the receipt bear their final names; of one
    that came a second time nothing changes but the date. The ledger is the driver's: it adopts the receipts.
    """
    aside = tar.with_name(f".{tar.name}.{os.getpid()}")
    try:
        trouble = _lay_out(parcel, tar, aside)
        missing = {}
        for key in parcel.task.keys:
            try:
                _settle(parcel, key, aside, root)
            except (OSError, ValueError, KeyError, TypeError) as error:
                missing[key] = trouble or str(error) or type(error).__name__
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return missing


def missing(parcel: Parcel, root: Path, since: float) -> list[str]:
    """Keys whose receipts have not come in since a time (s since the epoch)."""
    found = []
    for key in parcel.task.keys:
        path = root / parcel.receipt(key)
        if not path.exists() or path.stat().st_mtime < since:
            found.append(key)
    return found


def _lay_out(parcel: Parcel, tar: Path, aside: Path) -> str:
    """Unpack what the task foresaw and nothing else; says what is wrong with the tar, or nothing."""
    files = {path for key in parcel.task.keys for path in (*parcel.logs(key), parcel.receipt(key))}
    folders: set[str] = set()
    for key in parcel.task.keys:
        for path, directory in parcel.outputs(key).values():
            (folders if directory else files).add(path)
    try:
        with tarfile.open(tar) as stream:
            for member in stream:
                place = PurePosixPath(member.name)
                foreseen = member.name in files or any(parent.as_posix() in folders for parent in place.parents)
                if member.isfile() and foreseen and ".." not in place.parts:
                    stream.extract(member, aside, filter="data")
    except FileNotFoundError:
        return "nothing came back"
    except (OSError, tarfile.TarError) as error:
        return f"{tar.name} cannot be read: {error}"
    return ""


def _settle(parcel: Parcel, key: str, aside: Path, root: Path) -> None:
    """One key's outputs, logs and receipt, in that order; `ValueError` where they are not what they should be."""
    task = parcel.task
    path = aside / parcel.receipt(key)
    if not path.is_file():
        raise ValueError("it was not done")
    receipt = json.loads(path.read_text(encoding="utf-8"))
    origin = {
        "corridor": task.corridor,
        "stage": task.stage,
        "key": key,
        "seed": task.seed,
        "version": parcel.stage.version,
        "config_hash": options_hash(shared_options(parcel.stage, task.config)),
    }
    for name, value in origin.items():
        if receipt[name] != value:
            raise ValueError(f"its receipt says {name} {receipt[name]!r} and not {value!r}")
    foreseen = parcel.outputs(key) if receipt["status"] == "ok" else {}
    if receipt["outputs"].keys() != foreseen.keys():
        raise ValueError("its receipt names other outputs than the task")
    for name, (where, _) in foreseen.items():
        if not (aside / where).exists() or content_hash(aside / where) != receipt["outputs"][name]["hash"]:
            raise ValueError(f"{where} is not what its receipt says")
    if not config_path(root, receipt["config_hash"]).exists():
        write_json(config_path(root, receipt["config_hash"]), shared_options(parcel.stage, task.config))
    for name, (where, _) in foreseen.items():
        (root / where).parent.mkdir(parents=True, exist_ok=True)
        _move(aside / where, root / where)
        size, mtime_ns = stamp(root / where) or (0, 0)
        receipt["outputs"][name] |= {"path": where, "size": size, "mtime_ns": mtime_ns}
    for where in parcel.logs(key):
        if (aside / where).is_file():
            (root / where).parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / where, root / where)
    write_json(root / parcel.receipt(key), receipt)


def _move(came: Path, final: Path) -> None:
    """`commit`, unless the same lies there already: then its date stays too."""
    if final.exists() and content_hash(final) == content_hash(came):
        discard(came)
    else:
        commit(came, final)
