"""Everything in the driver's own process, one task after the other: for debuggers. No time limits here."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lenspipe.run.execute import execute
from lenspipe.run.workflow import GetStage
from lenspipe.stage import Task


class Inline:
    def __init__(self, root: Path, get: GetStage):
        self._root, self._get = root, get

    def submit(self, task: Task, pool: str) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        future.set_result(execute(task, self._get(task.stage), self._root))
        return future


@contextmanager
def open_inline(root: Path, get: GetStage) -> Iterator[Inline]:
    yield Inline(root, get)
