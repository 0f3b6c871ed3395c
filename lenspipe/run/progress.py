"""What a run says while it runs: bars on a terminal, plain lines with the time elsewhere. All on stderr."""

from __future__ import annotations

import sys
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol


class Progress(Protocol):
    def __enter__(self) -> Progress: ...

    def __exit__(self, kind: type[BaseException] | None, value: Any, trace: TracebackType | None) -> None: ...

    def say(self, text: str) -> None:
        """One sentence."""

    def count(self, stage: str, ended: int, total: int, note: str = "") -> None:
        """`ended` of the `total` units of `stage` that had to run have ended."""


class Lines:
    """Plain lines, for logs."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def say(self, text: str) -> None:
        print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", file=sys.stderr, flush=True)

    def count(self, stage: str, ended: int, total: int, note: str = "") -> None:
        if note:
            self.say(f"{stage} {ended}/{total} {note}")


class Bars:
    """One bar per stage."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(file=sys.stderr, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = RichProgress(*columns, console=self._console, redirect_stdout=False, redirect_stderr=False)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def count(self, stage: str, ended: int, total: int, note: str = "") -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=ended, total=total)


def choose() -> Progress:
    return Bars() if sys.stderr.isatty() else Lines()
