"""What the engine costs: one-millisecond units through ``lenspipe run`` on the local site, and through bare Parsl.

Both have as many workers as there are cores, and one task a unit; a unit waits a millisecond and writes a small file.
The engine also hashes and renames that file, logs, and writes a receipt and two lines of the ledger. Wall times, start
and end of the workers included; bare Parsl runs before and after, and is sent all tasks at once. Then the ledger is
blown up to ``--finished`` units, with their files, and read as ``lenspipe status`` and a run with nothing to do do;
and once more with HTCondor's event log of a DAG beside it that had a job for each of these units.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lenspipe.config import Config
from lenspipe.errors import LenspipeError
from lenspipe.products import SHARDS, Product
from lenspipe.stage import Inputs, Outputs, Resources, Stage

NOTE = Product("note", "notes/{aa}/{key}.txt")


class IndexConfig(Config):
    """How many units there are."""

    n: int


def index(config: IndexConfig, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    from astropy.table import Table

    Table({"key": keys(config.n)}).write(outputs["shards"], format="ascii.ecsv")
    return {}


def note(config: Config, inputs: Inputs, outputs: Outputs, seed: int) -> dict[str, Any]:
    for key, path in outputs["note"].items():
        unit(key, str(path))
    return {}


def unit(key: str, path: str) -> None:
    """The work of one unit, in the engine and without it."""
    import time  # Parsl may send this function by its code alone

    time.sleep(0.001)
    with open(path, "w") as stream:
        stream.write(f"{key}\n")


def keys(n: int) -> list[str]:
    return [f"u{i:06d}" for i in range(n)]


EVENTS = """000 ({job}) 2026-11-21 12:00:00 Job submitted from host: <10.0.0.1:9618?addrs=10.0.0.1-9618&sock=schedd>
    DAG Node: {node}
...
040 ({job}) 2026-11-21 12:01:00 Started transferring input files
	Transferring to host: <10.0.0.2:9618?addrs=10.0.0.2-9618&noUDP&sock=slot1_1>
...
040 ({job}) 2026-11-21 12:01:01 Finished transferring input files
...
001 ({job}) 2026-11-21 12:01:01 Job executing on host: <10.0.0.2:9618?addrs=10.0.0.2-9618&noUDP&sock=startd>
	SlotName: slot1_1@pool
	Cpus = 1
	Disk = 4195328
	Memory = 2048
...
006 ({job}) 2026-11-21 12:02:00 Image size of job updated: 4927448
	311  -  MemoryUsage of job (MB)
	318404  -  ResidentSetSize of job (KB)
...
006 ({job}) 2026-11-21 12:07:00 Image size of job updated: 5423928
	613  -  MemoryUsage of job (MB)
	627564  -  ResidentSetSize of job (KB)
...
040 ({job}) 2026-11-21 12:40:00 Started transferring output files
...
040 ({job}) 2026-11-21 12:40:02 Finished transferring output files
...
005 ({job}) 2026-11-21 12:40:02 Job terminated.
	(1) Normal termination (return value 0)
		Usr 0 00:38:03, Sys 0 00:00:09  -  Run Remote Usage
		Usr 0 00:00:00, Sys 0 00:00:00  -  Run Local Usage
		Usr 0 00:38:03, Sys 0 00:00:09  -  Total Remote Usage
		Usr 0 00:00:00, Sys 0 00:00:00  -  Total Local Usage
	921600  -  Run Bytes Sent By Job
	804478912  -  Run Bytes Received By Job
	921600  -  Total Bytes Sent By Job
	804478912  -  Total Bytes Received By Job
	Partitionable Resources : Usage Request Allocated
	Cpus                 :     0.98        1         1
	Disk (KB)            :   787482  4194304   4195328
	Memory (MB)          :      613     2048      2048
...
"""
"""What HTCondor writes of a job that ran once and ended well."""

STAGES = {
    "index": Stage("index", (), (SHARDS,), IndexConfig, index),
    "note": Stage("note", (), (NOTE,), Config, note, over=SHARDS, resources=Resources(minutes=1)),
}


def get(name: str) -> Stage:
    """This file is a registry of stages, as `lenspipe.stages` is."""
    if name not in STAGES:
        raise LenspipeError(f"there is no stage {name!r}.")
    return STAGES[name]


def through_dag(root: Path, n: int, per_task: int) -> None:
    """The units through the engine; where they are done, the look that finds it so."""
    from lenspipe.backends.site import load_site
    from lenspipe.cli import run_workflow
    from lenspipe.run.workflow import load

    root.mkdir(parents=True, exist_ok=True)
    path = root / "flow.yaml"
    path.write_text(f"name: overhead\ncorridors: {{toy: {{index: {{n: {n}}}, note: {{}}}}}}\n", encoding="utf-8")
    site = load_site("local", list(STAGES), [f"per_task={{note: {per_task}}}", "gpus=[]"])
    code = run_workflow(load(path, [], get), root / "run", site, "overhead", False, False, "parsl")
    if code:
        sys.exit(code)


def through_parsl(root: Path, n: int) -> None:
    """The same work, sent to Parsl as its tutorial does it."""
    import parsl
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        label="bare",
        address="127.0.0.1",
        encrypted=True,
        max_workers_per_node=len(os.sched_getaffinity(0)),
        cores_per_worker=1e-6,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    out = root / "bare"
    out.mkdir(parents=True)
    with parsl.load(parsl.Config(executors=[executor], run_dir=str(root / "parsl"), strategy="none")):
        app = parsl.python_app(unit)
        for future in [app(key, str(out / f"{key}.txt")) for key in keys(n)]:
            future.result()


def read_status(root: Path) -> None:
    from lenspipe.backends.dagman.submit import describe
    from lenspipe.run.status import status

    (found,) = (counts for name, counts in status(root / "run")["stages"].items() if name == "toy.note")
    assert found is not None and found["ok"] == found["units"], found
    assert (dag := describe(root / "run")) is None or dag["jobs"] == {"done": dag["nodes"]}, dag


def finish(root: Path, n: int) -> None:
    """Make `n` units of a run in which some are done: files and lines of the ledger like those that it has."""
    from lenspipe.run.fingerprint import Fingerprints

    path = root / "run" / ".lenspipe" / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    start = next(line for line in lines if line["event"] == "start" and line["stage"] == "note")
    done = next(line for line in lines if line["event"] == "unit" and line["stage"] == "note")
    there = {line["key"] for line in lines if line["event"] == "unit" and line["stage"] == "note"}
    with path.open("a", encoding="utf-8") as stream:
        for key in keys(n):
            if key in there:
                continue
            final = root / "run" / "toy" / NOTE.at(key)
            final.parent.mkdir(parents=True, exist_ok=True)
            final.write_text(f"{key}\n", encoding="utf-8")
            where = final.relative_to(root / "run").as_posix()
            made = {f"note/{key}": {"path": where, **(Fingerprints().record(final) or {})}}
            events = {**start, "keys": [key]}, {**done, "key": key, "outputs": made}
            stream.writelines(json.dumps(event, separators=(",", ":")) + "\n" for event in events)


def had_dag(root: Path, n: int) -> None:
    """The folder of a DAG with `n` nodes, all of which have ended."""
    from lenspipe.backends.dagman.files import LOG, new_folder

    folder = new_folder(root / "run")
    for number in range(1, n + 1):
        (folder / f"b{number:05d}").mkdir(parents=True)
    with (folder / LOG).open("w", encoding="utf-8") as stream:
        stream.writelines(EVENTS.format(job=f"{i:03d}.000.000", node=f"b{i:05d}") for i in range(1, n + 1))


PARTS = {"dag": through_dag, "parsl": through_parsl, "status": read_status, "finish": finish, "condor": had_dag}


def part(name: str, root: Path, *numbers: int) -> dict[str, float]:
    """Do one part in a process of its own: ``seconds`` with its start and end, and its own ``cpu`` and ``rss_mb``."""
    here = Path(__file__).resolve().parent
    environment = dict(os.environ)
    # The workers import this file by its name, as the registry; Parsl finds its helpers on PATH.
    for name_of, folders in (("PYTHONPATH", [here.parent, here]), ("PATH", [Path(sys.executable).parent])):
        environment[name_of] = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(name_of)])])
    argv = [sys.executable, str(Path(__file__).resolve()), "--part", name, str(root), *map(str, numbers)]
    began = time.perf_counter()
    with (root / f"{name}.log").open("a") as log:
        done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=log)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{name} failed with exit code {done.returncode}:\n{(root / f'{name}.log').read_text()[-2000:]}")
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--finished", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of both")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, root, *numbers = options.part
        PARTS[name](Path(root), *map(int, numbers))
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "rss_mb": used.ru_maxrss / 1024}))
        return
    shrink = 10 if options.quick else 1
    units, finished = options.units // shrink, options.finished // shrink
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("before", "after", "batches"):
            (root / name).mkdir()
        before = part("parsl", root / "before", units // 2)
        dag = part("dag", root, units, 1)
        after = part("parsl", root / "after", units // 2)
        bare = {name: before[name] + after[name] for name in ("seconds", "cpu")} | {"rss_mb": after["rss_mb"]}
        batches = part("dag", root / "batches", units, 20)
        part("finish", root, finished)
        part("dag", root, finished, 1)  # writes the index of so many
        status = part("status", root)
        again = part("dag", root, finished, 1)
        part("condor", root, finished)
        far = part("status", root)

    def each(seconds: float) -> float:
        return 1e3 * seconds / units

    print(f"{'':34}{'ms a unit':>10}{'driver CPU, ms':>16}{'driver, MiB':>13}")
    for name, of in (("bare Parsl", bare), ("lenspipe run", dag), ("the same, 20 units a task", batches)):
        print(f"{name:34}{each(of['seconds']):10.2f}{each(of['cpu']):16.2f}{of['rss_mb']:13.0f}")
    for name, of in (
        ("lenspipe status", status),
        ("the same after a DAG of as many jobs", far),
        ("lenspipe run, nothing to do", again),
    ):
        print(f"{name}, {finished} units: {of['seconds']:.1f} s ({of['cpu']:.1f} s of CPU), {of['rss_mb']:.0f} MiB")
    figures = {
        "tasks": units,
        "overhead_ms_per_task": each(dag["seconds"] - bare["seconds"]),
        "ratio_vs_bare_parsl": dag["seconds"] / bare["seconds"],
        "bare_ms_per_task": each(bare["seconds"]),
        "overhead_ms_per_task_in_batches": each(batches["seconds"] - bare["seconds"]),
        "driver_rss_mb": max(dag["rss_mb"], again["rss_mb"]),
        "finished": finished,
        "status_seconds_1e5": status["seconds"] * 1e5 / finished,
        "status_cpu_seconds_1e5": status["cpu"] * 1e5 / finished,
        "status_dagman_seconds_1e5": far["seconds"] * 1e5 / finished,
        "status_dagman_cpu_seconds_1e5": far["cpu"] * 1e5 / finished,
        "nothing_to_do_seconds_1e5": again["seconds"] * 1e5 / finished,
        "status_rss_mb": status["rss_mb"],
        "cores": len(os.sched_getaffinity(0)),
        "quick": options.quick,
    }
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
