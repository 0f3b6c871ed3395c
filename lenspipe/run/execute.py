"""One task, the same everywhere: check, temporary outputs, run, check, hash, rename, receipt."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lenspipe.config import parse
from lenspipe.errors import CandidateError, Interrupted, LenspipeError, RanksLost, Reason
from lenspipe.io.atomic import commit, discard, temporary
from lenspipe.products import Product
from lenspipe.run.fingerprint import Fingerprints
from lenspipe.run.folder import log_path, receipt_path
from lenspipe.run.receipt import write_receipt
from lenspipe.stage import Stage, Task
from lenspipe.types import check_id

logger = logging.getLogger(__name__)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_AGAIN = "Make room and run again: what is done stays done."
_seen = Fingerprints()  # a warm process hashes the weights once, not once per task


def execute(task: Task, stage: Stage, root: Path) -> dict[str, Any]:
    """Do `task` in run folder `root`.

    Returns
    -------
    dict of plain JSON: ``receipts``, a list of what the ledger keeps, one per key that has come to an end; ``died``
    ``{reason, detail}`` where a batch broke as a whole and its keys want to be tried singly; ``mistake``, a sentence,
    where the user has to mend something first; ``stopped``, a sentence, where the stage was asked to end and has kept
    what it had. No exception comes out but `KeyboardInterrupt`.
    """
    limit_threads(task.cpus)
    log = log_path(root, task)
    with _log_to(log):
        work = _Work(task, stage, root, log.relative_to(root).as_posix())
        try:
            return _outcome(work)
        except _Superseded as error:
            return {"receipts": [], "died": {"reason": Reason.TASK_CRASHED.value, "detail": str(error)}}
        finally:
            work.tidy()


def _outcome(work: _Work) -> dict[str, Any]:
    try:
        return {"receipts": work.perform()}
    except _Superseded:
        raise
    except LenspipeError as error:
        return {"receipts": [], "mistake": str(error)}
    except CandidateError as error:
        return {"receipts": work.fail_all(error.reason, error.detail)}
    except Interrupted as error:
        return {"receipts": [], "stopped": str(error)}
    except RanksLost as error:
        logger.exception("%s failed", work.stage.name)
        return {"receipts": [], "died": {"reason": Reason.TASK_CRASHED.value, "detail": str(error)}}
    except (Exception, SystemExit) as error:
        if _disk_full(error):
            return {"receipts": [], "mistake": f"{work.stage.name}: the disk that holds {work.root} is full. {_AGAIN}"}
        logger.exception("%s failed", work.stage.name)
        first = str(error).strip().split("\n")[0]
        detail = f"{type(error).__name__}: {first} (traceback in {work.log})"
        if len(work.task.keys) > 1:
            return {"receipts": [], "died": {"reason": Reason.INTERNAL_ERROR.value, "detail": detail}}
        return {"receipts": work.fail_all(Reason.INTERNAL_ERROR, detail)}


def _disk_full(error: BaseException | None) -> bool:
    """Whether it is that, or came of it: libraries raise errors of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def give_up(task: Task, stage: Stage, root: Path, reason: str, detail: str) -> list[dict[str, Any]]:
    """Quarantine the keys of a task whose process did not live to write receipts; returns what `execute` would."""
    work = _Work(task, stage, root, log_path(Path(), task).as_posix())
    work.claims.make()
    try:
        work.look()
        return work.fail_all(Reason(reason), detail)
    finally:
        work.tidy()


def limit_threads(cpus: int) -> None:
    """Numerical libraries that are imported from now on, and torch also afterwards, use `cpus` threads."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(cpus)
    # Threads that spin while they wait make a busy machine many times slower; a short spin costs an idle one nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(cpus)


def sweep(task: Task, stage: Stage, root: Path) -> None:
    """Remove what a process that died left half-written beside the task's outputs."""
    for product in stage.outputs:
        target = task.outputs[product.name]
        for path in target.values() if isinstance(target, dict) else [target.replace("{key}", "*")]:
            final = Path(path.replace("{aa}", "*"))
            for old in glob.glob(f"{final.parent}/.*.tmp.{final.name}", root_dir=root):
                discard(root / old)


class _Family(dict[str, Path]):
    """key -> temporary path of a product whose keys a stage that runs once makes up as it goes."""

    def __init__(self, work: _Work, product: Product):
        super().__init__()
        self._work, self._product = work, product

    def __missing__(self, key: str) -> Path:
        check_id(key, self._work.stage.name)
        final = replace(self._product, path=self._work.task.outputs[self._product.name]).at(key)
        self[key] = self._work.open(self._product, key, final)
        return self[key]


class _Superseded(Exception):
    """A later attempt at the same unit has begun: a worker that counts as lost may still be at work."""


class _Claims:
    """One attempt's claim to its units, a small file beside each receipt: the latest attempt alone may end them."""

    def __init__(self, root: Path, task: Task):
        self._mark = uuid.uuid4().hex
        paths = {key: receipt_path(root, task.corridor, task.stage, key) for key in task.keys}
        self._paths = {key: path.with_name(f".{path.stem}.claim") for key, path in paths.items()}

    def make(self) -> None:
        for path in self._paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._mark)

    def check(self, key: str) -> None:
        path = self._paths[key]
        if not path.exists() or path.read_text() != self._mark:
            raise _Superseded(f"Another attempt at {key or 'it'} began meanwhile.")

    def drop(self) -> None:
        for key, path in self._paths.items():
            with contextlib.suppress(_Superseded):
                self.check(key)
                path.unlink()


class _Work:
    """The state of one attempt."""

    def __init__(self, task: Task, stage: Stage, root: Path, log: str):
        self.task, self.stage, self.root, self.log = task, stage, root, log
        self.began = time.time()
        self.pending: dict[tuple[str, str], tuple[Product, Path, Path]] = {}
        self.hashes: dict[tuple[str, str], str] = {}
        self.outside: dict[str, dict[str, Any]] = {}
        self.own: dict[str, str] = {}
        self.lost: dict[str, dict[str, str]] = {}
        self.claims = _Claims(root, task)

    def look(self) -> tuple[Any, dict[str, Any]]:
        """The options, and the paths of the inputs that are there; hashes of all that is read are taken."""
        config = parse(self.stage.config, self.task.config, f"{self.task.corridor}.{self.task.stage}".lstrip("."))
        # Before they are read: a change while the stage runs is then seen by the next run.
        self.outside = _seen.outside(self.stage, config)
        self.own = _seen.own(self.stage, config)
        return config, self._inputs()

    def perform(self) -> list[dict[str, Any]]:
        task = self.task
        self.claims.make()
        sweep(task, self.stage, self.root)
        config, inputs = self.look()
        failed = dict(self.lost)
        figures: dict[str, Any] = {}
        if len(failed) < len(task.keys):
            result = _plain(self.stage.run(config, inputs, self._outputs(), task.seed) or {})
            failed |= result.get("failed", {})
            figures = result.get("figures", {})
        self._check(failed)
        made = self._commit(failed)
        if self.stage.over is None:
            return [self._receipt("", made, failed=failed, figures=figures)]
        return [
            self._receipt(key, {}, status="failed", **failed[key])
            if key in failed
            else self._receipt(
                key, {label: at for label, at in made.items() if label.endswith(f"/{key}")}, figures=figures.get(key)
            )
            for key in task.keys
        ]

    def fail_all(self, reason: Reason, detail: str) -> list[dict[str, Any]]:
        return [self._receipt(key, {}, status="failed", reason=reason.value, detail=detail) for key in self.task.keys]

    def open(self, product: Product, key: str, path: str) -> Path:
        """The temporary name of one output."""
        final = self.root / path
        temp = temporary(final)
        self.pending[product.name, key] = (product, temp, final)
        return temp

    def tidy(self) -> None:
        for _, temp, _ in self.pending.values():
            discard(temp)
        self.claims.drop()

    def _inputs(self) -> dict[str, Any]:
        """Paths of what is there; of a batch, a key that lacks an input is lost, and it alone."""
        found: dict[str, Any] = {}
        for name, where in self.task.inputs.items():
            if isinstance(where, dict):
                found[name] = {}
                for key, path in where.items():
                    try:
                        found[name][key] = self._input(name, key, path)
                    except CandidateError as error:
                        if self.stage.over is None:
                            raise
                        self.lost[key] = {"reason": error.reason.value, "detail": error.detail}
            else:
                found[name] = self._input(name, "", where)
        for members in found.values():
            if isinstance(members, dict):
                for key in self.lost:
                    members.pop(key, None)
        return found

    def _input(self, name: str, key: str, where: str) -> Path:
        path = self.root / where
        digest = _seen.of(path)
        if digest is None:
            raise CandidateError(Reason.FILE_MISSING, f"{where}: {self.stage.name} needs it and it is not there.")
        self.hashes[name, key] = digest
        return path

    def _outputs(self) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        for product in self.stage.outputs:
            where = self.task.outputs[product.name]
            if isinstance(where, dict):
                members = {key: path for key, path in where.items() if key not in self.lost}
                outputs[product.name] = {key: self.open(product, key, path) for key, path in members.items()}
            elif product.keyed:
                outputs[product.name] = _Family(self, product)
            else:
                outputs[product.name] = self.open(product, "", where)
        return outputs

    def _check(self, failed: dict[str, Any]) -> None:
        """All outputs of keys that did not fail are there and hold something, and are this attempt's to keep."""
        for key in self.task.keys:
            self.claims.check(key)
        for (_, key), (product, temp, final) in self.pending.items():
            if key in failed:
                continue
            if product.directory:
                whole = temp.is_dir() and any(temp.iterdir())
            else:
                whole = temp.is_file() and temp.stat().st_size > 0
            if not whole:
                raise RuntimeError(f"{self.stage.name} ended without its output {final.relative_to(self.root)}")

    def _commit(self, failed: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Hash, rename and list the outputs: label -> path, hash, size, mtime_ns."""
        made = {}
        for (name, key), (_, temp, final) in self.pending.items():
            if key in failed and (self.stage.over is not None or not temp.exists()):
                continue
            commit(temp, final)
            record = _seen.record(final)
            assert record is not None
            made[label(name, key)] = {"path": final.relative_to(self.root).as_posix(), **record}
        return made

    def _receipt(self, key: str, outputs: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
        self.claims.check(key)
        inputs = {label(n, k): digest for (n, k), digest in self.hashes.items() if k in ("", key) or key == ""}
        return write_receipt(
            self.root,
            self.task,
            key,
            stage=self.stage,
            own=self.own.get(key, ""),
            inputs=inputs,
            outside=self.outside,
            outputs=outputs,
            began=self.began,
            log=self.log,
            **more,
        )


def label(name: str, key: str) -> str:
    """How receipts and reasons name one input or output."""
    return f"{name}/{key}" if key else name


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """`result` as strict JSON: numpy values become numbers and lists, NaN and infinities None."""
    text = json.dumps(result, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value))
    plain: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return plain


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Everything that is logged or printed meanwhile goes to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        top = logging.getLogger()
        level = top.level
        top.addHandler(handler)
        top.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                yield
        finally:
            top.removeHandler(handler)
            top.setLevel(level)
