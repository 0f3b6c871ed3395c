"""Batches of units, each a job: how many go into one, and what that comes to in hours and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lenspipe.backends.dagman.options import Dagman, fill
from lenspipe.backends.dagman.own import Sayings, cut
from lenspipe.backends.site import Site
from lenspipe.run.driver import Driver
from lenspipe.stage import Stage, Task

LEAST, MOST = 20.0, 240.0
"""min of work that one job may be: less drowns in overhead, more is often evicted."""
MOST_BACK = 1e9
"""Bytes that one job may bring back; the OSPool asks for no more."""
SHARE = 25
"""A unit's time limit is about so many times what it takes, as long as nothing has been measured. A job meant for an
hour works for 20 min (three small bands) to 2 h (an HST image) on cores 2.5 times as slow as those of RESULTS.md."""


@dataclass(frozen=True)
class Batch:
    """One node of the DAG.

    Attributes
    ----------
    inputs : files that travel to the worker, relative to the run folder; of them `extra` belong to no product.
    size : their bytes.
    memory : MB at first.
    own : what is to be written for it, of what the options say of its keys.
    """

    name: str
    task: Task
    stage: Stage
    inputs: tuple[str, ...]
    size: int
    memory: int
    extra: tuple[str, ...] = ()
    own: Sayings | None = None

    @property
    def of(self) -> str:
        """The stage instance's name."""
        return f"{self.task.corridor}.{self.task.stage}"


def make(name: str, task: Task, stage: Stage, root: Path, memory_gb: float, extra: tuple[str, ...] = ()) -> Batch:
    """A batch whose files are all there; `extra` travel besides the inputs of `task`."""
    found = [p for where in task.inputs.values() for p in (where.values() if isinstance(where, dict) else [where])]
    inputs = tuple(dict.fromkeys([*found, *extra]))
    size = sum(_bytes(root / path) for path in inputs)
    return Batch(name, task, stage, inputs, size, round(1024 * memory_gb), extra)


def per_job(units: int, seconds: float, minutes: float, back: float = 0) -> int:
    """Units of one job, so that it works about `minutes`, within `LEAST` and `MOST`; jobs share evenly.

    Parameters
    ----------
    seconds, back : of one unit, its work and the bytes that it brings back, of which a job has at most `MOST_BACK`.
    """
    most = max(1, int(min(min(max(minutes, LEAST), MOST) * 60 / seconds, MOST_BACK / max(back, 1))))
    jobs = -(-units // most)
    return -(-units // jobs)


def plan(driver: Driver, far: frozenset[str], site: Site, settings: Dagman, place: str) -> list[Batch]:
    """All that is due of the far stages, in batches, each with a folder below `place` of the run folder."""
    batches: list[Batch] = []
    for instance in sorted(far):
        stage, units = driver.node(instance).stage, len(driver.due(instance))
        if not units:
            continue
        seconds, _ = _seconds(driver, instance)
        fitting = per_job(units, seconds, settings.minutes_per_job, _back(driver, instance))
        size = site.per_task.get(stage.name) or fitting
        memory_gb = settings.memory_gb or stage.resources.memory_gb
        for task in driver.hand_out(instance, size):
            name = f"b{len(batches) + 1:05d}"
            far_task, own = cut(task, stage, f"{place}/{name}")
            extra = (own.path, *own.files) if own else ()
            batches.append(replace(make(name, far_task, stage, driver.root, memory_gb, extra), own=own))
    return batches


def words(driver: Driver, batches: Sequence[Batch], settings: Dagman) -> list[str]:
    """How many jobs, how long they take, and what travels."""
    lines = []
    for name in dict.fromkeys(batch.of for batch in batches):
        mine = [batch for batch in batches if batch.of == name]
        units, most = sum(len(batch.task.keys) for batch in mine), max(len(batch.task.keys) for batch in mine)
        seconds, measured = _seconds(driver, name)
        source = f"measured on {measured}" if measured else "a guess, none has been measured here yet"
        back = _back(driver, name)
        files = sum(len(batch.inputs) + 1 for batch in mine)
        lines += [
            f"{name}: {units} units in {len(mine)} jobs of at most {most}, about {most * seconds / 60:.0f} min each",
            f"  {seconds:.1f} s a unit ({source}), {units * seconds / 3600:.1f} core-hours in all",
            f"  to the workers {_size(sum(batch.size for batch in mine))} in {files} files; back "
            + (f"about {_size(units * back)}" if back else "an amount not measured here yet")
            + f" in {len(mine)}",
        ]
    if batches and settings.image:
        lines.append(f"  and to each worker that has it not yet {fill(settings.image, 'dagman.image')}")
    return lines or ["no unit has to travel, as far as can be seen now"]


def _seconds(driver: Driver, name: str) -> tuple[float, int]:
    """Of one unit, and on how many of this run it was measured; on none, then it is a share of the time limit."""
    measured = [entry["seconds"] for entry in driver.receipts(name)]
    if measured:
        return max(1.0, sum(measured) / len(measured)), len(measured)
    resources = driver.node(name).stage.resources
    return resources.minutes * driver.capacity.minutes_factor * 60 / resources.per_task / SHARE, 0


def _back(driver: Driver, name: str) -> float:
    """Bytes that one unit brings back, as those of this run did; 0 as long as none has."""
    sizes = [sum(made["size"] for made in entry["outputs"].values()) for entry in driver.receipts(name)]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    return path.stat().st_size if path.exists() else 0


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
