"""What the DAG itself runs on the access point, between and after its jobs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lenspipe import __version__
from lenspipe.backends.dagman import batches
from lenspipe.backends.dagman.files import DAG, SECOND, SKIP, dag_text, read_site, root_of, take_up, write_parcels
from lenspipe.backends.dagman.parcel import MISTAKE, missing, read_parcel, take_in
from lenspipe.backends.dagman.submit import conclude, drive, far_stages, settings_of
from lenspipe.errors import Reason
from lenspipe.run.execute import give_up
from lenspipe.run.graph import build
from lenspipe.run.lock import hold
from lenspipe.run.progress import choose
from lenspipe.run.workflow import GetStage

NOT_SUBMITTED = -1001
"""What DAGMan says in place of an exit code for a job that could not be submitted."""


def take(folder: Path, node: str, returned: int, last: bool, get: GetStage) -> int:
    """After a job: put in place what it brought; returns the exit code of the node.

    Parameters
    ----------
    returned : exit code of the job, or what DAGMan says for it.
    last : it was the second try, each unit alone: what has not come back now is quarantined.
    """
    folder, root = folder.resolve(), root_of(folder)
    os.chdir(root)  # as on the worker: the parcel's paths hold there
    parcel = read_parcel(folder / node / "parcel.json", get)
    tar = folder / node / "outcome.tar"
    lost = take_in(parcel, tar, root)
    for key, why in lost.items():
        print(f"{node}: {key}: {why}")
    if returned == MISTAKE:
        return MISTAKE
    if returned == NOT_SUBMITTED:
        return 1
    if last:
        where = (folder / node / "job.err").relative_to(root)
        for key, why in lost.items():
            detail = f"Tried alone, its job ended with {returned}: {why} ({where} holds what it said)."
            give_up(parcel.single(key), parcel.stage, root, Reason.TASK_CRASHED, detail)
    tar.unlink(missing_ok=True)
    return 0


def again(folder: Path, get: GetStage) -> int:
    """Before the second round: the DAG of the units that did not come back, each alone; `SKIP` if all did."""
    root, settings = root_of(folder), settings_of(read_site(folder))
    since = (folder / DAG).stat().st_mtime
    singles: list[batches.Batch] = []
    for path in sorted(folder.glob("b*/parcel.json")):
        parcel = read_parcel(path, get)
        memory_gb = 2 * (settings.memory_gb or parcel.stage.resources.memory_gb)
        for key in missing(parcel, root, since):
            name = f"s{len(singles) + 1:05d}"
            memory = min(memory_gb, settings.memory_gb_max)
            singles.append(batches.make(name, parcel.single(key), parcel.stage, root, memory, parcel.extra))
    if not singles:
        return SKIP
    write_parcels(folder, singles, settings)
    title = f"lenspipe {__version__}: {len(singles)} units that did not come back, each alone"
    (folder / SECOND).write_text(dag_text(title, singles, second=True), encoding="utf-8")
    return 0


def finish(folder: Path, registry: str, get: GetStage) -> int:
    """After all jobs: adopt their receipts, run the stages that come after; returns the exit code of the node."""
    root, site = root_of(folder), read_site(folder)
    flow = take_up(folder, get)
    graph = build(flow.instances)
    far = far_stages(graph, settings_of(site))
    with choose() as progress, hold(root, progress.say) as lock:
        driver, code = drive(flow, graph, root, site, registry, progress, lock, far)
    conclude(driver, graph, root, code)
    if left := [f"{len(keys)} of {name}" for name in sorted(far) if (keys := driver.due(name))]:
        print(f"not done: {', '.join(left)}; lenspipe submit again does them", file=sys.stderr)
        return 1
    return 0 if code == 3 else code  # quarantine is an end like another
