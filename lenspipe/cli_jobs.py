"""``lenspipe submit``, ``lenspipe cancel`` and the steps of a DAG: a run as jobs of a batch system."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lenspipe import stages
from lenspipe.backends import condor, slurm
from lenspipe.backends.dagman import steps, submit
from lenspipe.backends.site import WORKFLOWS, Site, find, load_site
from lenspipe.errors import LenspipeError
from lenspipe.run.folder import CANCEL, STATE
from lenspipe.run.lock import describe, holder, is_stale
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
    path = find(workflow, WORKFLOWS, "workflow")
    flow = load(path, sets, stages.get)
    if where.dagman is not None:
        return submit.submit(flow, out, where, _REGISTRY, dry_run, retry_failed)
    if where.job is None:
        raise LenspipeError(f"site {where.name}: `submit` needs a section 'job' (Slurm) or 'dagman' (HTCondor) there.")
    # Files must be found from wherever the job begins; names that come with lenspipe are found there too.
    arguments = [str(path.resolve()) if Path(workflow).is_file() else workflow, "--out", str(out.resolve())]
    arguments += ["--site", str(Path(site).resolve()) if Path(site).is_file() else site]
    arguments += [word for text in site_sets for word in ("--site-set", text)]
    arguments += [word for text in sets for word in ("--set", text)]
    arguments += ["--retry-failed"] if retry_failed else []
    _submit_job(where, out, arguments, dry_run)
    return 0


def _submit_job(site: Site, out: Path, arguments: Sequence[str], dry_run: bool) -> None:
    """The whole run inside one job of Slurm."""
    text = slurm.driver_job(site, out, arguments)
    if dry_run:
        print(text, end="")
        return
    if there := slurm.jobs(slurm.job_name(out)):
        raise LenspipeError(f"{out}: job {next(iter(there))} of this run is already with Slurm; see squeue.")
    (out / STATE / "logs").mkdir(parents=True, exist_ok=True)
    print(f"job {slurm.submit(text)} is with Slurm; lenspipe status {out}, lenspipe cancel {out}")


def cancel_run(out: Path) -> None:
    """Tell the run's driver to stop, wherever it runs, and end every job of the run.

    One batch system that does not answer keeps no other from being asked; at the end `LenspipeError` says which it was.
    """
    ended: list[str] = []
    troubles: list[str] = []
    who = holder(out)
    if who is not None and not is_stale(out, who):
        (out / CANCEL).touch()
        ended.append(f"told {describe(who)} to stop")
    try:
        if cluster := submit.cancel(out):
            ended.append(f"DAG {cluster} is removed")
    except LenspipeError as error:
        troubles.append(str(error))
    for system, asks in ((slurm, "squeue"), (condor, "condor_q")):
        try:
            if shutil.which(asks) and (jobs := system.cancel(slurm.job_name(out))):
                ended.append(f"cancelled {', '.join(jobs)}")
        except LenspipeError as error:
            troubles.append(str(error))
    if ended or not troubles:
        print("; ".join(ended) or "no job of this run is waiting or running, and no process works on it")
    if troubles:
        raise LenspipeError(f"jobs of {out} may be left: {'; '.join(troubles)}")


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
