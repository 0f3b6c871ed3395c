"""``lenspipe submit``, ``lenspipe cancel`` and the steps of a DAG: a run as jobs of a batch system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lenspipe import stages
from lenspipe.backends.dagman import steps, submit
from lenspipe.backends.site import WORKFLOWS, find, load_site
from lenspipe.errors import LenspipeError
from lenspipe.run.workflow import load

_REGISTRY = "lenspipe.stages"


def submit_run(
    workflow: str,
    out: Path,
    site: str,
    sets: Sequence[str],
    site_sets: Sequence[str],
    retry_failed: bool,
    dry_run: bool,
) -> int:
    """Check everything, then submit what the site asks for, or print it; returns the exit code."""
    where = load_site(site, stages.NAMES, site_sets)
    flow = load(find(workflow, WORKFLOWS, "workflow"), sets, stages.get)
    return submit.submit(flow, out, where, _REGISTRY, dry_run, retry_failed)


def cancel_run(out: Path) -> None:
    """End every job of the run."""
    print(
        f"DAG {cluster} is removed" if (cluster := submit.cancel(out)) else "no job of this run is waiting or running"
    )


def dag_step(folder: Path, step: str, node: str, returned: int, tries: str) -> int:
    """What the DAG in `folder` asks for; returns the exit code of the script or job that asks."""
    match step:
        case "take":
            return steps.take(folder, node, returned, tries == "last", stages.get)
        case "again":
            return steps.again(folder, stages.get)
        case "finish":
            return steps.finish(folder, _REGISTRY, stages.get)
    raise LenspipeError(f"{step}: a DAG has the steps take, again and finish.")
