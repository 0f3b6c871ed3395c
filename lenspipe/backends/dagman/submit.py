"""Submitting a run as a DAG, looking at it in the queue, and taking it out again."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from lenspipe.backends import condor
from lenspipe.backends.child import open_child
from lenspipe.backends.dagman import batches as sizes
from lenspipe.backends.dagman import event_log
from lenspipe.backends.dagman.files import DAG, LOG, folders, new_folder, place_of, texts, write
from lenspipe.backends.dagman.options import Dagman
from lenspipe.backends.site import Site
from lenspipe.errors import LenspipeError
from lenspipe.run.driver import Driver
from lenspipe.run.graph import Graph, build
from lenspipe.run.ledger import Ledger
from lenspipe.run.lock import Held, hold
from lenspipe.run.progress import Lines, Progress, choose
from lenspipe.run.results import result_lines
from lenspipe.run.workflow import Workflow


def submit(flow: Workflow, root: Path, site: Site, registry: str, dry_run: bool, retry_failed: bool) -> int:
    """Run here what comes before the far stages, then submit those as a DAG; returns the exit code.

    Parameters
    ----------
    registry : module with ``get(name)`` for the stages.
    dry_run : run nothing, submit nothing, print everything.
    """
    settings, graph = settings_of(site), build(flow.instances)
    far = far_stages(graph, settings)
    refuse_if_queued(root)
    if dry_run:
        _show(Driver(graph, root, site.capacity(), Ledger(root), Lines(), retry_failed, dry_run=True), flow, far, site)
        return 0
    with choose() as progress, hold(root, progress.say) as lock:
        driver, code = drive(flow, graph, root, site, registry, progress, lock, far, retry_failed)
        folder = new_folder(root)
        found = sizes.plan(driver, far, site, settings, place_of(folder)) if code in (0, 3) else []
        if found:
            write(folder, flow, site, settings, found)
            print("\n".join(sizes.words(driver, found, settings)), flush=True)
            for batch in found:
                driver.ledger.start(batch.task.corridor, batch.task.stage, batch.task.keys)
            condor.call("condor_submit_dag", "-batch-name", flow.name, DAG, folder=folder)
            print(f"DAG {queued(root)} is in the queue; lenspipe status {root}, lenspipe cancel {root}")
            return 0
        if code in (0, 3):  # nothing has to travel: what comes after can run at once
            driver, code = drive(flow, graph, root, site, registry, progress, lock, frozenset(), retry_failed)
    conclude(driver, graph, root, code)
    return code


def settings_of(site: Site) -> Dagman:
    if site.dagman is None:
        raise LenspipeError(f"site {site.name} has no section 'dagman'.")
    return site.dagman


def far_stages(graph: Graph, settings: Dagman) -> frozenset[str]:
    """Names of the stage instances whose units travel."""
    far = {item.name: item for item in graph.order if item.stage.name in settings.stages}
    for name, item in far.items():
        if item.stage.over is None:
            raise LenspipeError(f"dagman.stages: {name} is one task, not one a candidate; let it run here.")
        if between := graph.upstream(name) & far.keys():
            raise LenspipeError(f"dagman.stages: {name} waits for {min(between)}; only one of them can travel.")
        config = item.stage.config.model_validate(item.config)
        if item.stage.outside is not None and (paths := list(item.stage.outside(config))):
            raise LenspipeError(f"dagman.stages: {name} reads {paths[0]}, which does not travel; let it run here.")
    return frozenset(far)


def drive(
    flow: Workflow,
    graph: Graph,
    root: Path,
    site: Site,
    registry: str,
    progress: Progress,
    lock: Held,
    far: frozenset[str],
    retry_failed: bool = False,
) -> tuple[Driver, int]:
    """Run on this machine all that waits for no `far` stage, one task after the other, without opening a port."""
    os.environ.update(site.environment)
    ledger = Ledger(root, lock.check)
    for notice in ledger.notices:
        progress.say(notice)
    ledger.begin(flow.name, [(item.corridor, item.stage.name) for item in graph.order])
    driver = Driver(graph, root, site.capacity(), ledger, progress, retry_failed, held_back=far)
    return driver, driver.run(lambda: open_child(root.resolve(), registry))


def conclude(driver: Driver, graph: Graph, root: Path, code: int) -> None:
    """What a run says at its end."""
    for mistake in driver.mistakes:
        print(mistake, file=sys.stderr)
    print(driver.summary())
    if code in (0, 3):
        print("".join(f"{line}\n" for line in result_lines(root, graph.order)), end="")


def _show(driver: Driver, flow: Workflow, far: frozenset[str], site: Site) -> None:
    driver.survey()
    settings = settings_of(site)
    place = place_of(new_folder(driver.root))
    found = sizes.plan(driver, far, site, settings, place)
    print("\n".join([*driver.plan_lines(), *sizes.words(driver, found, settings)]))
    for name, text in texts(place, flow.name, site, settings, found).items() if found else ():
        print(f"\n--- {name}\n{text}", end="")


# -- in the queue -----------------------------------------------------------------------------------------------


def queued(root: Path) -> str:
    """Cluster of this run's DAG while it is in the queue, by the log that the queue itself keeps; else empty."""
    for folder in reversed(folders(root)):
        for job in event_log.jobs(folder / f"{DAG}.dagman.log").values():
            if job.state in ("idle", "running", "held"):
                return job.id.partition(".")[0]
    return ""


def refuse_if_queued(root: Path) -> None:
    """`LenspipeError` while HTCondor works on this run."""
    if cluster := queued(root):
        raise LenspipeError(
            f"{root}: HTCondor works on it, as DAG {cluster}; wait for that (lenspipe status {root}) "
            f"or end it (lenspipe cancel {root}). If condor_q shows no such job any more, remove "
            f"{folders(root)[-1] / DAG}.dagman.log."
        )


def describe(root: Path) -> dict[str, Any] | None:
    """The newest DAG of a run by HTCondor's event logs, None if it had none.

    ``cluster`` (None once it has left the queue), ``folder``, ``nodes``, ``jobs`` state -> number, ``starts`` and
    ``checkpoints`` of all jobs, ``held``: ``job node code subcode reason`` of those that are.
    """
    if not (mine := folders(root)):
        return None
    jobs = event_log.jobs(mine[-1] / LOG).values()
    return {
        "cluster": queued(root) or None,
        "folder": str(mine[-1]),
        "nodes": sum(entry.is_dir() for entry in os.scandir(mine[-1])),
        "jobs": dict(Counter(job.state for job in jobs)),
        "starts": sum(job.starts for job in jobs),
        "checkpoints": sum(job.checkpoints for job in jobs),
        "held": [
            {"job": job.id, "node": job.node, "code": job.code, "subcode": job.subcode, "reason": job.detail}
            for job in jobs
            if job.state == "held"
        ],
    }


def cancel(root: Path) -> str:
    """Remove this run's DAG with all its jobs from the queue; the cluster, empty if there is none."""
    if cluster := queued(root):
        condor.call("condor_rm", cluster)
    return cluster
