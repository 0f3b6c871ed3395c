"""Native HTCondor: the units of the far stages as a DAGMan workflow, the stages before and after them here.

For pools where no port may be opened towards workers and no process of one's own may stay: everything far travels by
HTCondor's file transfer, and DAGMan is the driver in the meantime. `lenspipe.backends.parcel` is what travels.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

import lenspipe
from lenspipe import __version__
from lenspipe.backends import condor_log
from lenspipe.backends.child import open_child
from lenspipe.backends.dagman_site import Dagman, fill
from lenspipe.backends.parcel import CHECKPOINT, MISTAKE, missing, read_parcel, take_in, write_parcel
from lenspipe.backends.site import Site
from lenspipe.errors import LenspipeError, Reason
from lenspipe.io.atomic import write_json
from lenspipe.run.driver import Driver
from lenspipe.run.execute import give_up
from lenspipe.run.folder import STATE
from lenspipe.run.graph import Graph, build
from lenspipe.run.ledger import Ledger
from lenspipe.run.lock import hold
from lenspipe.run.progress import Lines, choose
from lenspipe.run.results import result_lines
from lenspipe.run.workflow import GetStage, Instance, Workflow
from lenspipe.stage import Stage, Task

JOBS = Path(lenspipe.__file__).parent / "jobs"
"""The templates that come with the package."""
DAG = "run.dag"
LEAST, MOST = 20.0, 240.0
"""min of work that one job may be: less drowns in overhead, more is often evicted."""
SHARE = 10
"""A unit's time limit is about so many times what it takes, as long as nothing has been measured."""
SKIP = 79
"""Exit code by which a script tells DAGMan that its node is not needed."""


@dataclass(frozen=True)
class Batch:
    """One node of the DAG.

    Attributes
    ----------
    inputs : files that travel to the worker, relative to the run folder.
    size : their bytes.
    memory : MB at first.
    """

    name: str
    task: Task
    stage: Stage
    inputs: tuple[str, ...]
    size: int
    memory: int


# -- submitting -------------------------------------------------------------------------------------------------


def submit(
    flow: Workflow, out: Path, site: Site, registry: str, get: GetStage, dry_run: bool, retry_failed: bool
) -> int:
    """Run here what comes before the far stages, then submit those as a DAG; returns the exit code."""
    settings = _settings(site)
    graph = build(flow.instances)
    far = _far(graph, settings)
    if cluster := queued(out):
        raise LenspipeError(f"{out}: DAG {cluster} of it is in HTCondor's queue; wait for it or lenspipe cancel {out}.")
    if dry_run:
        driver = Driver(graph, out, site.capacity(), Ledger(out), Lines(), retry_failed, dry_run=True)
        driver.survey()
        print("\n".join(driver.plan_lines()))
        batches = _batches(driver, far, settings, site)
        texts = _texts(flow.name, batches, settings, _new_folder(out).name) if batches else {}
        print("\n".join([*_figures(driver, batches, settings), *(f"\n--- {n}\n{text}" for n, text in texts.items())]))
        return 0
    with choose() as progress, hold(out, progress.say):
        driver, code = _drive(flow, graph, out, site, registry, progress, far, retry_failed)
        batches = _batches(driver, far, settings, site) if code in (0, 3) else []
        if batches:
            folder = _write(out, flow, site, batches, settings)
            print("\n".join(_figures(driver, batches, settings)))
            for batch in batches:
                driver.ledger.start(batch.task.corridor, batch.task.stage, batch.task.keys)
            said = _condor("condor_submit_dag", "-batch-name", flow.name, DAG, folder=folder)
            print(said.strip().splitlines()[-1] if said.strip() else "")
            print(f"submitted; lenspipe status {out} says how far it is, lenspipe cancel {out} ends it")
            return 0
        if code in (0, 3):  # nothing has to travel: what comes after may run at once
            driver, code = _drive(flow, graph, out, site, registry, progress, frozenset(), retry_failed)
    _conclude(driver, graph, out, code)
    return code


def _settings(site: Site) -> Dagman:
    if site.dagman is None:
        raise LenspipeError(f"site {site.name} has no section 'dagman'.")
    return site.dagman


def _far(graph: Graph, settings: Dagman) -> frozenset[str]:
    """Names of the stage instances whose units travel."""
    far = {item.name: item for item in graph.order if item.stage.name in settings.stages}
    for name, item in far.items():
        if item.stage.over is None:
            raise LenspipeError(f"dagman.stages: {name} is one task, not one per candidate; let it run here.")
        if between := graph.upstream(name) & far.keys():
            raise LenspipeError(f"dagman.stages: {name} waits for {min(between)}; only one of them can travel.")
        config = item.stage.config.model_validate(item.config)
        if item.stage.outside is not None and (paths := list(item.stage.outside(config))):
            raise LenspipeError(f"dagman.stages: {name} reads {paths[0]}, which does not travel; let it run here.")
    return frozenset(far)


def _drive(
    flow: Workflow, graph: Graph, out: Path, site: Site, registry: str, progress: Any, far: frozenset[str], again: bool
) -> tuple[Driver, int]:
    """Run on this machine all that waits for no far stage, one task after the other, without opening a port."""
    ledger = Ledger(out)
    for notice in ledger.notices:
        progress.say(notice)
    ledger.begin(flow.name, [(item.corridor, item.stage.name) for item in graph.order])
    driver = Driver(graph, out, site.capacity(), ledger, progress, again, held_back=far)
    return driver, driver.run(lambda: open_child(out.resolve(), registry))


def _conclude(driver: Driver, graph: Graph, out: Path, code: int) -> None:
    for mistake in driver.mistakes:
        print(mistake, file=sys.stderr)
    print(driver.summary())
    if code in (0, 3):
        print("".join(f"{line}\n" for line in result_lines(out, graph.order)), end="")


# -- batches ----------------------------------------------------------------------------------------------------


def per_job(units: int, seconds: float, minutes: float) -> int:
    """Units of one job, so that it works about `minutes`, within `LEAST` and `MOST`; jobs share evenly."""
    within = min(max(minutes, LEAST), MOST)
    most = max(1, int(within * 60 / seconds))
    jobs = -(-units // most)
    return -(-units // jobs)


def _batches(driver: Driver, far: frozenset[str], settings: Dagman, site: Site) -> list[Batch]:
    batches: list[Batch] = []
    for name in sorted(far):
        units = len(driver.due(name))
        stage = driver.node(name).stage
        size = site.per_task.get(stage.name) or (
            per_job(units, _seconds(driver, name)[0], settings.minutes_per_job) if units else 1
        )
        memory = round(1024 * (settings.memory_gb or stage.resources.memory_gb))
        for task in driver.hand_out(name, size):
            batches.append(batch(f"b{len(batches) + 1:05d}", task, stage, driver.root, memory))
    return batches


def batch(name: str, task: Task, stage: Stage, root: Path, memory: int) -> Batch:
    found = [p for where in task.inputs.values() for p in (where.values() if isinstance(where, dict) else [where])]
    inputs = tuple(dict.fromkeys(found))
    return Batch(name, task, stage, inputs, sum(_bytes(root / path) for path in inputs), memory)


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    return path.stat().st_size if path.exists() else 0


def _seconds(driver: Driver, name: str) -> tuple[float, int]:
    """Of one unit, and from how many it was measured in this run folder; from none, a share of the time limit."""
    measured = [entry["seconds"] for entry in driver.receipts(name)]
    if measured:
        return max(1.0, sum(measured) / len(measured)), len(measured)
    resources = driver.node(name).stage.resources
    return resources.minutes * driver.capacity.minutes_factor * 60 / resources.per_task / SHARE, 0


def _figures(driver: Driver, batches: Sequence[Batch], settings: Dagman) -> list[str]:
    """How many jobs, how long, and what travels, in words."""
    lines = []
    for name in dict.fromkeys(f"{batch.task.corridor}.{batch.task.stage}" for batch in batches):
        mine = [batch for batch in batches if f"{batch.task.corridor}.{batch.task.stage}" == name]
        units, most = sum(len(b.task.keys) for b in mine), max(len(b.task.keys) for b in mine)
        seconds, measured = _seconds(driver, name)
        source = f"measured on {measured}" if measured else "a guess: none has been measured here yet"
        lines.append(
            f"{name}: {units} units in {len(mine)} jobs of at most {most}, about {most * seconds / 60:.0f} min each"
        )
        lines.append(f"  {seconds:.1f} s a unit ({source}), {units * seconds / 3600:.1f} core-hours in all")
        back = [sum(made["size"] for made in entry["outputs"].values()) for entry in driver.receipts(name)]
        there = f"{_size(sum(b.size for b in mine))} in {sum(len(b.inputs) + 1 for b in mine)} files"
        size = f"about {_size(units * sum(back) / len(back))}" if back else "an amount not measured here yet"
        lines.append(f"  to the workers {there}; back {size} in {len(mine)} files")
    if batches and settings.image:
        lines.append(f"  and to each worker, unless it has it, {fill(settings.image, 'dagman.image')}")
    return lines or ["no unit has to travel, as far as can be seen now"]


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


# -- files ------------------------------------------------------------------------------------------------------


def _write(out: Path, flow: Workflow, site: Site, batches: Sequence[Batch], settings: Dagman) -> Path:
    """All that HTCondor and the steps on the access point read, in a folder of its own."""
    folder = _new_folder(out)
    texts = _texts(flow.name, batches, settings, folder.name)
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "access_point.sh").chmod(0o755)
    write_json(folder / "flow.json", _flow_json(flow))
    write_json(folder / "site.json", site.model_dump(mode="json", exclude_unset=True))
    for one in batches:
        write_batch(folder, one, settings)
    return folder


def write_batch(folder: Path, one: Batch, settings: Dagman) -> None:
    (folder / one.name).mkdir(exist_ok=True)
    write_parcel(folder / one.name / "parcel.json", one.task, one.stage, settings.checkpoint_minutes)


def _texts(name: str, batches: Sequence[Batch], settings: Dagman, number: str) -> dict[str, str]:
    """File name -> text of what is submitted."""
    units = sum(len(one.task.keys) for one in batches)
    memory_max = round(1024 * settings.memory_gb_max)
    return {
        "candidates.sub": render(
            "candidates.sub",
            image=fill(settings.image, "dagman.image"),
            executable=settings.executable,
            folder=f"{STATE}/dagman/{number}",
            up="../../..",
            checkpoint=CHECKPOINT,
            mistake=MISTAKE,
            memory_max=memory_max,
            disk=round(settings.disk_gb * 1024**2),
            disk_max=round(settings.disk_gb_max * 1024**2),
            requirements=settings.requirements,
            retries=settings.retries,
            holds=settings.max_holds + 1,
            release_seconds=round(settings.release_minutes * 60),
            held_seconds=round(settings.held_hours * 3600),
            duration=settings.duration,
            project=fill(site.account, "account"),
            options=settings.options,
        ),
        DAG: render_dag(f"lenspipe {__version__}, {name}: {units} units in {len(batches)} jobs", batches),
        "finish.sub": render("finish.sub", memory=1024),
        "dagman.config": f"DAGMAN_MAX_JOBS_IDLE = {settings.max_idle}\nDAGMAN_MAX_POST_SCRIPTS = 4\n",
        "access_point.sh": render(
            "access_point.sh",
            python=shlex.quote(sys.executable),
            path=shlex.quote(str(Path(lenspipe.__file__).parents[1])),
        ),
    }


def render_dag(title: str, batches: Sequence[Batch], singles: bool = False) -> str:
    return render(
        "run.dag",
        title=title,
        name="again.dag" if singles else DAG,
        config=None if singles else "dagman.config",
        nodes=batches,
        take="last" if singles else "first",
        again=not singles,
        mistake=MISTAKE,
        skip=SKIP,
    )


def render(template: str, **values: Any) -> str:
    """A template of `JOBS` filled in; a value that it asks for and that is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(JOBS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(template).render(**values)


def folders(out: Path) -> list[Path]:
    """Of all DAGs that this run has had, the newest last."""
    return sorted(path for path in (out / STATE / "dagman").glob("[0-9]*") if path.is_dir())


def _new_folder(out: Path) -> Path:
    last = folders(out)
    return out / STATE / "dagman" / f"{int(last[-1].name) + 1 if last else 1:03d}"


# -- the DAG's steps on the access point ------------------------------------------------------------------------


def take(folder: Path, node: str, returned: int, last: bool, get: GetStage) -> int:
    """After a job: put in place what it brought. What it did not bring is tried again singly, but only once.

    Parameters
    ----------
    returned : exit code of the job, or what DAGMan says for it.
    last : nothing follows: what has not come back now is quarantined.
    """
    out = root_of(folder)
    parcel = read_parcel(folder / node / "parcel.json", get)
    tar = folder / node / "outcome.tar"
    lost = take_in(parcel, tar, out)
    for key, why in lost.items():
        print(f"{node}: {key}: {why}")
    if returned == MISTAKE or returned == -1001:  # DAGMan's word for a job that could not be submitted
        return returned if returned > 0 else 1
    if last:
        for key in lost:
            detail = f"Its job ended with {returned} ({folder / node} has its output), also when it was tried alone."
            give_up(parcel.single(key), parcel.stage, out, Reason.TASK_CRASHED, detail)
    tar.unlink(missing_ok=True)
    return 0


def again(folder: Path, get: GetStage) -> int:
    """Before the second round: a DAG of the candidates that did not come back, each alone; `SKIP` if all did."""
    out = root_of(folder)
    settings = _settings(_read_site(folder))
    since = (folder / DAG).stat().st_mtime
    singles: list[Batch] = []
    for path in sorted(folder.glob("b*/parcel.json")):
        parcel = read_parcel(path, get)
        memory = min(2 * (settings.memory_gb or parcel.stage.resources.memory_gb), settings.memory_gb_max)
        for key in missing(parcel, out, since):
            name = f"s{len(singles) + 1:05d}"
            singles.append(batch(name, parcel.single(key), parcel.stage, out, round(1024 * memory)))
    if not singles:
        return SKIP
    for one in singles:
        write_batch(folder, one, settings)
    title = f"lenspipe {__version__}: {len(singles)} units that did not come back, each alone"
    (folder / "again.dag").write_text(render_dag(title, singles, singles=True), encoding="utf-8")
    return 0


def finish(folder: Path, registry: str, get: GetStage) -> int:
    """After all jobs: adopt their receipts, run the stages that come after; returns the exit code of the node."""
    out, site = root_of(folder), _read_site(folder)
    flow = _read_flow(folder, get)
    graph = build(flow.instances)
    far = _far(graph, _settings(site))
    with choose() as progress, hold(out, progress.say):
        driver, code = _drive(flow, graph, out, site, registry, progress, far, again=False)
    _conclude(driver, graph, out, code)
    if left := {name: units for name in far if (units := len(driver.due(name)))}:
        print(f"not done: {left}; submit it again", file=sys.stderr)
        return 1
    return 0 if code == 3 else code


def root_of(folder: Path) -> Path:
    return folder.resolve().parents[2]


def _flow_json(flow: Workflow) -> dict[str, Any]:
    """A workflow as it was checked, with the options that were overridden."""
    found = [
        {"corridor": i.corridor, "stage": i.stage.name, "config": i.config, "seed": i.seed} for i in flow.instances
    ]
    return {"name": flow.name, "instances": found}


def _read_flow(folder: Path, get: GetStage) -> Workflow:
    data = json.loads((folder / "flow.json").read_text(encoding="utf-8"))
    found = [Instance(i["corridor"], get(i["stage"]), i["config"], i["seed"]) for i in data["instances"]]
    return Workflow(data["name"], tuple(found))


def _read_site(folder: Path) -> Site:
    return Site.model_validate(json.loads((folder / "site.json").read_text(encoding="utf-8")))


# -- what HTCondor says -----------------------------------------------------------------------------------------


def queued(out: Path) -> str:
    """Cluster of this run's DAG while it is in the queue, by the log that the queue itself keeps; else empty."""
    for folder in reversed(folders(out)):
        for job in condor_log.jobs(folder / f"{DAG}.dagman.log").values():
            if job.state in ("idle", "running", "held"):
                return job.id.partition(".")[0]
    return ""


def describe(out: Path) -> dict[str, Any] | None:
    """The newest DAG of a run: ``cluster`` (or None), ``folder``, ``jobs`` state -> number, ``held``, ``starts``."""
    if not (mine := folders(out)):
        return None
    jobs = list(_jobs(mine[-1]))
    states: dict[str, int] = {}
    for job in jobs:
        states[job.state] = states.get(job.state, 0) + 1
    held = [
        {"job": job.id, "node": job.node, "code": job.code, "subcode": job.subcode, "reason": job.detail}
        for job in jobs
        if job.state == "held"
    ]
    return {
        "cluster": queued(out) or None,
        "folder": str(mine[-1]),
        "nodes": sum(1 for path in mine[-1].glob("[bs]*/parcel.json")),
        "jobs": states,
        "starts": sum(job.starts for job in jobs),
        "checkpoints": sum(job.checkpoints for job in jobs),
        "held": held,
    }


def _jobs(folder: Path) -> Iterator[condor_log.Job]:
    for name in (DAG, "again.dag"):
        yield from condor_log.jobs(folder / f"{name}.nodes.log").values()


def cancel(out: Path) -> str:
    """Remove this run's DAG with all its jobs from the queue; empty if there is none."""
    cluster = queued(out)
    if cluster:
        _condor("condor_rm", cluster, folder=out)
    return cluster


def _condor(*argv: str, folder: Path) -> str:
    """One of HTCondor's commands; `LenspipeError` with what it says where it refuses."""
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LenspipeError(f"{argv[0]}: there is no such command; work on a machine with HTCondor.") from None
    if done.returncode:
        raise LenspipeError(f"{' '.join(argv)} in {folder}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
