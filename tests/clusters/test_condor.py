"""The whole pipeline with its fits on a real HTCondor pool whose jobs share nothing with the access point."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from lenspipe.backends.dagman.event_log import jobs
from lenspipe.backends.dagman.submit import describe, queued
from lenspipe.backends.slurm import job_name
from tests.backends.processes import until
from tests.clusters.condor import HOME, USER
from tests.clusters.miniature import NAMES, SETS, Miniature

PATIENCE = 400
DAGMAN = {"executable": "/opt/lenspipe/bin/lenspipe", "disk_gb": 0.2, "release_minutes": 0.02}
SITE = {"name": "pool", "cores": 1, "per_task": {"model": 2}}


class OnAccessPoint(Miniature):
    """The miniature in the home of the pool's user, who runs it there."""

    def __init__(self, pool, name, **dagman):
        shutil.rmtree(pool.home / name, ignore_errors=True)  # a kept pool has what an earlier session left
        super().__init__(pool.home / name, {})
        self.pool, self.place = pool, f"{HOME}/{name}"
        (self.folder / "site.yaml").write_text(yaml.safe_dump({**SITE, "dagman": {**DAGMAN, **dagman}}))
        pool("chown", "-R", f"{USER}:", self.place, user="root")

    def __call__(self, *argv, check=True):
        sets = [word for text in SETS for word in ("--set", text)] if argv[0] in ("run", "submit") else []
        done = self.pool("lenspipe", *argv, *sets, cwd=self.place, check=check)
        return done.stdout if check else done.stderr

    def begin(self, *argv):
        return self.pool.begin("lenspipe", *argv, *(w for text in SETS for w in ("--set", text)), cwd=self.place)

    def blocks(self):
        """Batch names of all jobs in the queue that have not ended."""
        return self.pool("condor_q", "-constraint", "JobStatus =!= 4", "-af", "JobBatchName").stdout.split()

    def submit(self, *options):
        return self("submit", "search", "--site", "site.yaml", "--out", "run", *options)

    @property
    def dag(self):
        return self.root / ".lenspipe/dagman/001"

    def jobs(self):
        """Of the two rounds, by their nodes: the latest of each."""
        return {job.node: job for job in jobs(self.dag / "jobs.log").values()}

    def status(self):
        return json.loads(self("status", "run", "--json"))

    def wait(self):
        until(lambda: not queued(self.root), PATIENCE)

    def said(self):
        """Whatever the DAG left in words."""
        texts = [*self.dag.glob("*.log"), *self.dag.glob("*/job.err"), *self.dag.glob("finish.*")]
        return "\n".join(f"{path}\n{path.read_text(errors='replace')}" for path in texts)

    def fitting(self, node):
        """The processes of a node's job once a fit is under way in it."""

        def look():
            for process in self.pool.processes(f"task {self.dag.relative_to(self.root)}/{node}/parcel.json"):
                logs = (self.pool.root / "var/lib/condor/execute").glob("dir_*/.lenspipe/logs/search/model/*.log")
                sandbox = self.pool.sandbox(process)
                if any(sandbox in log.parents and "fitting" in log.read_text() for log in logs):
                    return process
            return None

        return until(look, PATIENCE)


def agrees(made, reference):
    """The same shards, masks and bundles to the byte; the same catalogue, whose floats another libc may round."""
    (rows, hashes), (wanted, bytes_wanted) = made, reference
    assert hashes == bytes_wanted
    assert rows.keys() == wanted.keys()
    for name, row in rows.items():
        for column, text in row.items():
            try:
                value = float(wanted[name][column])
            except ValueError:
                assert text == wanted[name][column], (name, column)
            else:
                assert float(text) == pytest.approx(value, rel=1e-3, abs=1e-6, nan_ok=True), (name, column)


@pytest.fixture
def on_access_point(pool):
    made = []

    def make(name, **dagman):
        made.append(OnAccessPoint(pool, name, **dagman))
        return made[-1]

    yield make
    for each in made:
        each("cancel", "run")


def test_fits_travel_through_a_dag_that_is_removed_and_taken_up_from_its_rescue(pool, on_access_point, reference):
    run = on_access_point("travel")
    said = run.submit()
    assert "search.model: 4 units in 2 jobs" in said
    assert " kB in 6 files" in said
    assert "HTCondor works on it" in run("run", "search", "--out", "run", check=False)
    process = run.fitting("b00001")
    assert not pool.listens(process)
    assert run.status()["dag"]["jobs"] == {"running": 2}
    assert run("cancel", "run").startswith("DAG")
    run.wait()
    until(lambda: not pool("condor_q", "-af", "ClusterId").stdout.strip(), 30)
    assert (run.dag / "run.dag.rescue001").exists()
    pool("condor_submit_dag", "run.dag", cwd=f"{run.place}/run/.lenspipe/dagman/001")
    run.wait()
    agrees(run.made(), reference)
    found = run.status()
    assert found["stages"]["search.model"] == {"units": 4, "ok": 4, "failed": 0, "running": 0, "waiting": 0}
    assert found["dag"]["cluster"] is None
    assert not list(run.dag.glob("*/outcome.tar"))  # what has come in does not lie there twice
    assert run.submit().startswith("nothing to do")


def test_nothing_is_lost_or_done_twice_when_jobs_are_killed_evicted_and_held(pool, on_access_point, reference):
    run = on_access_point("faults", retries=0, checkpoint_minutes=0.05, memory_gb=1)
    run.submit()
    # One worker is killed: its job ends, and both of its candidates are tried singly.
    os.kill(run.fitting("b00001"), signal.SIGKILL)
    # The other is sent away in mid-fit, then held by a person: it stays held until somebody says otherwise.
    run.fitting("b00002")
    job = run.jobs()["b00002"].id
    pool("condor_vacate_job", "-fast", job)
    until(lambda: run.jobs()["b00002"].starts > 1, PATIENCE)
    run.fitting("b00002")
    pool("condor_hold", job)
    until(lambda: run.jobs()["b00002"].state == "held", 60)
    assert [(held["node"], held["code"]) for held in run.status()["dag"]["held"]] == [("b00002", 1)]
    time.sleep(5)
    assert run.jobs()["b00002"].state == "held"
    # As if it had been held for want of memory: it is released by itself, and asks for more.
    for name, value in (("HoldReasonCode", 34), ("HoldReasonSubCode", 102)):
        pool("condor_qedit", job, name, value)
    until(lambda: run.jobs()["b00002"].state != "held", 60)
    assert int(pool("condor_q", job, "-af", "RequestMemory").stdout) > 1024
    run.wait()
    agrees(run.made(), reference)
    assert run.jobs()["b00001"].state == "failed"
    singles = {node for node in run.jobs() if node.startswith("s")}
    assert len(singles) == 2, run.said()
    assert describe(run.root)["checkpoints"] > 0
    assert set(run.receipts("model")) == set(NAMES)


def test_parsls_workers_are_jobs_of_a_pool_that_shares_its_files(pool, on_access_point, reference):
    run = on_access_point("parsl")
    workers = {"provider": "condor", "cores_per_node": 1, "memory_gb_per_node": 1, "max_blocks": 2, "idle_seconds": 5}
    site = {
        "name": "blocks",
        "interface": "lo",
        "heartbeat_seconds": 2,
        "lost_seconds": 200,  # longer than the test waits: not by silence do blocks end
        "executors": {"cpu": workers},
    }
    (run.folder / "site.yaml").write_text(yaml.safe_dump(site))
    command = ("run", "search", "--site", "site.yaml", "--out", "run")
    # A driver that is killed takes its blocks along, and the next one goes on.
    driver = run.begin(*command)
    logs = run.root / ".lenspipe/logs/search/model"
    until(lambda: any("fitting" in log.read_text() for log in logs.glob("*.log")), PATIENCE)
    (pid,) = pool.processes("lenspipe run search")
    os.kill(pid, signal.SIGKILL)
    driver.wait()
    assert all(name.startswith(job_name(Path(run.place) / "run")) for name in run.blocks())
    until(lambda: not run.blocks(), 60)
    run(*command)
    agrees(run.made(), reference)
    until(lambda: not run.blocks(), 60)


def test_doctor_sends_a_job_that_answers_from_a_worker_of_the_pool(pool, on_access_point):
    run = on_access_point("doctor")
    said = run("doctor", "--site", "site.yaml", "--json", "--minutes", "3")
    checks = json.loads(said[said.index('{"ok"') :])["checks"]
    found = {check["name"]: (check["level"], check["found"]) for check in checks if check["where"] != "here"}
    assert found["worker"][0] == "ok"
    assert found["same versions"] == ("ok", "as here")
    assert found["folder"][0] == found["hdf5"][0] == found["scratch"][0] == "ok"
    assert not list(run.folder.glob(".lenspipe-doctor-*"))


def test_doctor_says_what_a_job_that_no_worker_takes_asks_for(pool, on_access_point):
    run = on_access_point("alone", requirements='Machine == "nowhere"')
    said = pool("lenspipe", "doctor", "--site", "site.yaml", "--minutes", "0.2", cwd=run.place, check=False)
    assert said.returncode == 1
    assert "the job was idle" in said.stdout
    assert "-better-analyze" in said.stdout
    assert not pool("condor_q", "-af", "ClusterId").stdout.strip()
