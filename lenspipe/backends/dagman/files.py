"""The files of one DAG: what HTCondor and the steps on the access point read."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

import lenspipe
from lenspipe import __version__
from lenspipe.backends.dagman.batches import Batch
from lenspipe.backends.dagman.options import Dagman, fill
from lenspipe.backends.dagman.parcel import CHECKPOINT, MISTAKE, Parcel, write_parcel
from lenspipe.backends.site import Site
from lenspipe.io.atomic import write_json
from lenspipe.run.folder import STATE
from lenspipe.run.workflow import GetStage, Instance, Workflow

JOBS = Path(lenspipe.__file__).parent / "jobs"
"""The templates that come with the package."""
DAG, SECOND = "run.dag", "again.dag"
"""The DAG, and that of its second round: units that did not come back, each alone."""
LOG = "jobs.log"
"""HTCondor's events of all jobs of both."""
SKIP = 79
"""Exit code by which a script tells DAGMan that its node is not needed."""


def folders(root: Path) -> list[Path]:
    """Of all DAGs that the run in `root` has had, the newest last."""
    return sorted(path for path in (root / STATE / "dagman").glob("[0-9]*") if path.is_dir())


def new_folder(root: Path) -> Path:
    last = folders(root)
    return root / STATE / "dagman" / f"{int(last[-1].name) + 1 if last else 1:03d}"


def place_of(folder: Path) -> str:
    """A DAG's folder relative to the run folder in which it lies."""
    return f"{STATE}/dagman/{folder.name}"


def root_of(folder: Path) -> Path:
    """The run folder in which a DAG's folder lies."""
    return folder.resolve().parents[2]


def write(folder: Path, flow: Workflow, site: Site, settings: Dagman, batches: Sequence[Batch]) -> None:
    """All that a DAG needs, so that nothing else is read once it has been submitted."""
    content = texts(place_of(folder), flow.name, site, settings, batches)
    folder.mkdir(parents=True)
    for name, text in content.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "access_point.sh").chmod(0o755)
    instances = [
        {"corridor": i.corridor, "stage": i.stage.name, "config": i.config, "seed": i.seed} for i in flow.instances
    ]
    # Paths in options hold where it was submitted.
    write_json(folder / "flow.json", {"name": flow.name, "instances": instances, "folder": str(Path.cwd())})
    write_json(folder / "site.json", site.model_dump(mode="json", exclude_unset=True))
    write_parcels(folder, batches, settings)


def write_parcels(folder: Path, batches: Sequence[Batch], settings: Dagman) -> None:
    for batch in batches:
        (folder / batch.name).mkdir(exist_ok=True)
        parcel = Parcel(batch.task, batch.stage, settings.checkpoint_minutes, batch.extra)
        write_parcel(folder / batch.name / "parcel.json", parcel)
        if batch.own:
            batch.own.write(root_of(folder))


def take_up(folder: Path, get: GetStage) -> Workflow:
    """The workflow that was submitted, with its overrides, and this process in the folder in which that was done."""
    data = json.loads((folder / "flow.json").read_text(encoding="utf-8"))
    os.chdir(data["folder"])
    found = [Instance(i["corridor"], get(i["stage"]), i["config"], i["seed"]) for i in data["instances"]]
    return Workflow(data["name"], tuple(found))


def read_site(folder: Path) -> Site:
    return Site.model_validate(json.loads((folder / "site.json").read_text(encoding="utf-8")))


def texts(place: str, name: str, site: Site, settings: Dagman, batches: Sequence[Batch]) -> dict[str, str]:
    """File name -> text of what HTCondor reads of the DAG in folder `place` of a run."""
    units = sum(len(batch.task.keys) for batch in batches)
    return {
        "candidates.sub": render(
            "candidates.sub",
            image=fill(settings.image, "dagman.image"),
            executable=settings.executable,
            log=LOG,
            folder=place,
            checkpoint=CHECKPOINT,
            mistake=MISTAKE,
            memory_max=round(1024 * settings.memory_gb_max),
            disk=round(settings.disk_gb * 1024**2),
            disk_max=round(settings.disk_gb_max * 1024**2),
            requirements=settings.requirements,
            retries=settings.retries,
            max_holds=settings.max_holds,
            release_seconds=round(settings.release_minutes * 60),
            held_seconds=round(settings.held_hours * 3600),
            duration=settings.duration,
            project=fill(site.account, "account"),
            options=settings.options,
        ),
        DAG: dag_text(f"lenspipe {__version__}, {name}: {units} units in {len(batches)} jobs", batches),
        "finish.sub": render("finish.sub"),
        "dagman.config": f"DAGMAN_MAX_JOBS_IDLE = {settings.max_idle}\nDAGMAN_MAX_POST_SCRIPTS = 4\n",
        "access_point.sh": render(
            "access_point.sh",
            python=shlex.quote(sys.executable),
            path=shlex.quote(str(Path(lenspipe.__file__).parents[1])),
        ),
    }


def dag_text(title: str, batches: Sequence[Batch], second: bool = False) -> str:
    return render(
        "run.dag",
        title=title,
        name=SECOND if second else DAG,
        nodes=batches,
        second=second,
        again=SECOND,
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
        autoescape=False,  # job files, not HTML
    )
    return environment.get_template(template).render(**values)
