"""The commands. Heavy imports stay inside them: ``lenspipe --help`` and a run with nothing to do must be quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lenspipe import __version__, stages
from lenspipe.cli_fit import fit_command
from lenspipe.errors import LenspipeError

_Out = Annotated[Path, typer.Option("--out", help="Folder for the results.", file_okay=False)]
_Site = Annotated[str, typer.Option(help="Site file or name: where it runs.")]
_SiteSet = Annotated[
    list[str] | None, typer.Option("--site-set", help="Override a key of the site; may be repeated.", metavar="K=V")
]
_Set = Annotated[list[str] | None, typer.Option("--set", help="Override an option; may be repeated.", metavar="K=V")]


class _Commands(TyperGroup):
    """The commands below, and one for every stage, built when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *stages.NAMES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _stage_command(cmd_name) if cmd_name in stages.NAMES else super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a sky survey's cutouts to a catalogue of strong-lens models.",
)

app.command(name="fit")(fit_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"lenspipe {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
) -> None:
    return


@app.command()
def run(
    workflow: Annotated[str, typer.Argument(help="Workflow file, or the name of one that comes with lenspipe.")],
    out: _Out,
    site: _Site = "local",
    sets: _Set = None,
    site_sets: _SiteSet = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which units would run and why.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try quarantined candidates again.")] = False,
    backend: Annotated[str | None, typer.Option(help="parsl or inline, in place of the site's.")] = None,
    allocation: Annotated[
        bool, typer.Option("--allocation", help="Work on the nodes of the Slurm job in which this runs.")
    ] = False,
) -> None:
    """Run a workflow; running it again does only what is not done or no longer holds.

    Exit codes: 0 all done; 1 a whole stage failed; 2 a mistake in the command or a file; 3 some candidates are in
    quarantine, the others are done; 75 it was asked to end (SIGUSR1) before it was done.
    """
    from lenspipe.backends.dagman.submit import refuse_if_queued
    from lenspipe.backends.site import WORKFLOWS, find, load_site
    from lenspipe.run.workflow import load

    refuse_if_queued(out)
    where = load_site(site, stages.NAMES, site_sets or [])
    if allocation:
        where = where.inside_job()
    flow = load(find(workflow, WORKFLOWS, "workflow"), sets or [], stages.get)
    raise typer.Exit(run_workflow(flow, out, where, "lenspipe.stages", dry_run, retry_failed, backend or where.backend))


def run_workflow(
    flow: Any, out: Path, where: Any, registry: str, dry_run: bool, retry_failed: bool, backend: str
) -> int:
    """Drive `flow`, whose stages module `registry` knows, in folder `out` on site `where`; returns the exit code."""
    from importlib import import_module

    from lenspipe.run.driver import Driver
    from lenspipe.run.graph import build
    from lenspipe.run.ledger import Ledger
    from lenspipe.run.lock import hold
    from lenspipe.run.progress import Lines, choose
    from lenspipe.run.publish import publish
    from lenspipe.run.results import result_lines

    os.environ.update(where.environment)
    graph, capacity, kept_in = build(flow.instances), where.capacity(), where.kept_in()
    if backend not in ("parsl", "inline"):
        raise LenspipeError(f"--backend {backend}: there are parsl and inline.")
    if dry_run:
        driver = Driver(graph, out, capacity, Ledger(out), Lines(), retry_failed, dry_run=True)
        driver.survey()
        print("\n".join(driver.plan_lines()))
        return 0

    def open_backend() -> Any:
        if backend == "inline":
            from lenspipe.backends.inline import open_inline

            return open_inline(out, import_module(registry).get)
        from lenspipe.backends.parsl import open_parsl

        return open_parsl(out, registry, where)

    with choose() as progress, hold(out, progress.say) as lock:
        ledger = Ledger(out, lock.check)
        for notice in ledger.notices:
            progress.say(notice)
        if warning := where.warning(out):
            progress.say(warning)
        ledger.begin(flow.name, [(item.corridor, item.stage.name) for item in graph.order])
        driver = Driver(graph, out, capacity, ledger, progress, retry_failed, grace_seconds=where.grace_seconds())
        code = driver.run(open_backend)
        if kept_in and code in (0, 3):
            progress.say("copied to {} ({} files)".format(*publish(out, kept_in)))
    for mistake in driver.mistakes:
        print(mistake, file=sys.stderr)
    print(driver.summary())
    if code in (0, 3):
        print("".join(f"{line}\n" for line in result_lines(out, graph.order)), end="")
    return code


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How far a run has come, what is in quarantine and why, and who holds the folder."""
    from lenspipe.backends.dagman.submit import describe as describe_dag
    from lenspipe.run.lock import describe
    from lenspipe.run.status import status as read_status

    found = {**read_status(folder), "dag": (dag := describe_dag(folder))}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for notice in found["notices"]:
        print(notice, file=sys.stderr)
    if dag and dag["cluster"]:
        print(f"HTCondor works on it, as DAG {dag['cluster']}")
    else:
        print(f"held by {describe(found['holder'])}" if found["holder"] else "not running")
    if dag:
        jobs = ", ".join(f"{number} {state}" for state, number in dag["jobs"].items())
        print(f"jobs: {jobs or 'none yet'}; {dag['starts']} starts, {dag['checkpoints']} checkpoints ({dag['folder']})")
        for job in dag["held"]:
            print(f"  job {job['job']} ({job['node']}) is held, {job['code']}/{job['subcode']}: {job['reason']}")
    for name, counts in found["stages"].items():
        if counts is None:
            print(f"{name}: units not known yet")
            continue
        parts = [f"{counts[what]} {what}" for what in ("ok", "failed", "running", "waiting") if counts[what]]
        units = "1 unit" if counts["units"] == 1 else f"{counts['units']} units"
        print(f"{name}: {units}: {', '.join(parts) or 'nothing to do'}")
    for item in found["quarantined"]:
        print(f"  {item['stage']} {item['key']}: {item['reason']}: {item['detail']}")


@app.command()
def doctor(
    site: Annotated[str | None, typer.Option(help="Site file or name: try its workers too.")] = None,
    site_sets: _SiteSet = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder in which runs shall lie.", exists=True, file_okay=False)
    ] = Path(),
    minutes: Annotated[float, typer.Option(help="How long to wait for a worker in the queue.", min=0)] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for what stands in the way of a run, here and, by a real task, on the workers of a site.

    Exit codes: 0 nothing does (warnings aside); 1 something does, and the line below it says what to do.
    """
    from dataclasses import asdict

    from lenspipe.backends.doctor import examine, show, there
    from lenspipe.backends.probe import facts
    from lenspipe.backends.site import load_site

    where = load_site(site, stages.NAMES, site_sets or []) if site else None
    if where:
        os.environ.update(where.environment)
    home = facts(out)
    checks = [*examine("here", home), *(there(where, out, minutes, home) if where else [])]
    failed = any(check.level == "fail" for check in checks)
    found = {"ok": not failed, "checks": [asdict(check) for check in checks], "facts": home}
    print(json.dumps(found) if as_json else show(checks))
    raise typer.Exit(int(failed))


@app.command()
def task(
    file: Annotated[Path, typer.Argument(help="A task as JSON.", exists=True, dir_okay=False)],
    root: Annotated[Path, typer.Option(help="The run folder that its paths are relative to.")],
    pack: Annotated[
        Path | None, typer.Option(help="FILE is a parcel: work through it and leave all that comes of it in this tar.")
    ] = None,
) -> None:
    """Execute one task and print its outcome as JSON: what jobs on other machines call."""
    from lenspipe.cli_stage import report
    from lenspipe.run.execute import execute
    from lenspipe.stage import Task

    if pack is not None:
        from lenspipe.backends.dagman.parcel import work

        raise typer.Exit(work(file, root.resolve(), pack, "lenspipe.stages", stages.get))
    try:
        one = Task.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise LenspipeError(f"{file}: not a task: {error}.") from None
    result = execute(one, stages.get(one.stage), root)
    print(json.dumps(result))
    raise typer.Exit(report(result))


@app.command()
def submit(
    workflow: Annotated[str, typer.Argument(help="Workflow file, or the name of one that comes with lenspipe.")],
    out: _Out,
    site: Annotated[str, typer.Option(help="Site file or name: where it runs.")],
    sets: _Set = None,
    site_sets: _SiteSet = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted, submit nothing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try quarantined candidates again.")] = False,
) -> None:
    """Hand a run to a batch system; submitting it again goes on with it."""
    from lenspipe.cli_jobs import submit_run

    raise typer.Exit(submit_run(workflow, out, site, sets or [], site_sets or [], retry_failed, dry_run))


@app.command()
def cancel(folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Stop a run's driver, wherever it runs, and end all of its jobs; what is done stays done."""
    from lenspipe.cli_jobs import cancel_run

    cancel_run(folder)


@app.command(hidden=True)
def dag(
    folder: Annotated[Path, typer.Argument(help="Folder of a DAG.", exists=True, file_okay=False)],
    step: Annotated[str, typer.Argument(help="take, again or finish.")],
    node: Annotated[str, typer.Argument(help="Of take: the node.")] = "",
    returned: Annotated[int, typer.Argument(help="Of take: how its job ended.")] = 0,
    tries: Annotated[str, typer.Argument(help="Of take: first or last.")] = "first",
) -> None:
    """A step of a DAGMan workflow on the access point: what the DAG itself calls."""
    from lenspipe.cli_jobs import dag_step

    raise typer.Exit(dag_step(folder, step, node, returned, tries))


def _stage_command(name: str) -> Any:
    """``lenspipe NAME``: one stage alone."""
    stage = stages.get(name)

    def command(
        out: _Out,
        sets: _Set = None,
        inputs: Annotated[
            list[str] | None,
            typer.Option("--input", help="Where an input is, if not under --out.", metavar="PRODUCT=PATH"),
        ] = None,
        seed: Annotated[int, typer.Option(help="Everything random derives from it.")] = 0,
    ) -> None:
        from lenspipe.cli_stage import run_stage

        raise typer.Exit(run_stage(stage, out, sets or [], inputs or [], seed))

    one = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    one.command(name=name, cls=_with_switches(stage.config), help=_stage_help(stage), short_help=stage.summary)(command)
    return typer.main.get_command(one)


def _with_switches(config: Any) -> type[TyperCommand]:
    """A command with ``--trust-pickle`` for ``--set trust_pickle=true``, and so for all that is off by default."""
    switches = {f"--{key.replace('_', '-')}": key for key, info in config.model_fields.items() if info.default is False}

    class WithSwitches(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            said = [f"--set={switches[arg]}=true" if arg in switches else arg for arg in args]
            return super().parse_args(ctx, said)

    return WithSwitches


def _stage_help(stage: Any) -> str:
    """Summary, inputs and outputs, and the options that --set takes."""
    lines = [stage.summary, ""]
    for title, products in (("Inputs", stage.inputs), ("Optional", stage.optional), ("Outputs", stage.outputs)):
        if products:
            lines += [f"{title}: {', '.join(product.name for product in products)}.", ""]
    lines.append("Options for --set:" if stage.config.model_fields else "No options for --set.")
    for line in _option_lines(stage.config, {}):
        lines += ["", line]
    return "\n".join(lines)


def _option_lines(model: Any, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """One line an option, nested ones under dotted keys; `values` are defaults over the model's own."""
    from pydantic import BaseModel
    from pydantic_core import to_jsonable_python

    for name, info in model.model_fields.items():
        key = f"{prefix}{name}"
        about = f": {info.description}" if info.description else ""
        if name not in values and info.is_required():
            yield f"- {key}{about} (required)"
            continue
        value = values.get(name, info.get_default(call_default_factory=True))
        if isinstance(value, BaseModel):
            yield from _option_lines(type(value), dict(value), f"{key}.")
            continue
        default = value if isinstance(value, str) and value else json.dumps(to_jsonable_python(value))
        yield f"- {key}{about} (default {default})"


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2."""
    try:
        app()
    except LenspipeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
