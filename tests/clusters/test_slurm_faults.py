"""Slurm, and what is killed there: nothing lost, nothing twice, nothing left. Toy stages, so that it takes seconds."""

import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from lenspipe.backends.site import load_site
from lenspipe.backends.slurm import driver_job, job_name
from tests.backends.processes import MARK, ended, marked, parent_of, until
from tests.clusters.slurm import ACCOUNT
from tests.run import toys
from tests.run.conftest import flow

ROOT = Path(__file__).parents[2]
PATIENCE = 200
"""Seconds; other work may keep the machine busy."""
KEYS = [f"{i:03d}" for i in range(4)]
SITE = {
    "name": "test",
    "account": ACCOUNT,
    "qos": "regular",
    "interface": "lo",
    "heartbeat_seconds": 1,
    "lost_seconds": 5,
    "per_task": {"work": 1},
    "executors": {
        "cpu": {
            "provider": "slurm",
            "launcher": "srun",
            "constraint": "cpu",
            "exclusive": False,
            "cores_per_node": 1,
            "max_blocks": 2,
            "walltime": "00:05:00",
        }
    },
    "job": {
        "constraint": "gpu",
        "nodes": 2,
        "walltime": "00:05:00",
        "cpus_per_node": 2,
        "gpus_per_node": 1,
        "signal_seconds": 40,
        "executors": {"cpu": {"cores_per_node": 1}, "gpu": {"cores_per_node": 1, "accelerators": ["0"]}},
    },
}


class Run:
    """Toys on the cluster, with a driver outside of it or inside a job."""

    def __init__(self, slurm, folder):
        self.slurm, self.folder, self.root = slurm, folder, folder / "run"
        self.mark = uuid.uuid4().hex
        self.environment = {**slurm.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: self.mark}
        flow(folder)
        (folder / "site.yaml").write_text(yaml.safe_dump(SITE))
        self.name = job_name(self.root)

    def arguments(self, sets):
        places = [str(self.folder / "flow.yaml"), "--out", str(self.root), "--site", str(self.folder / "site.yaml")]
        return [*places, *(word for text in sets for word in ("--set", text))]

    def drive(self, *sets):
        """A driver outside, which asks Slurm for blocks."""
        with (self.folder / "said.txt").open("a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.clusters.drive", *self.arguments(sets)],
                cwd=ROOT,
                env=self.environment,
                stdout=said,
                stderr=said,
            )

    def submit(self, *sets):
        """The whole run inside a job; its id."""
        site = load_site(str(self.folder / "site.yaml"), list(toys.STAGES))
        text = driver_job(site, self.root, self.arguments(sets))
        (self.root / ".lenspipe/logs").mkdir(parents=True, exist_ok=True)
        text = text.replace("lenspipe run", f"{sys.executable} -m tests.clusters.drive")
        argv = ["sbatch", "--parsable", f"--chdir={ROOT}"]
        done = subprocess.run(argv, env=self.environment, input=text, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def said(self):
        logs = sorted((self.root / ".lenspipe/logs").glob("driver-*.log"))
        return "".join(path.read_text() for path in [self.folder / "said.txt", *logs] if path.exists())

    def jobs(self):
        return {job: found for job, found in self.slurm.jobs().items() if found[0].startswith(self.name)}

    def left(self):
        return marked(self.mark)

    def drivers(self):
        """Processes that drive the run."""
        found = []
        for pid in self.left():
            with suppress(OSError):
                if b"tests.clusters.drive" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def driver(self):
        (pid,) = self.drivers()
        return pid

    def working(self, key, attempt=1):
        """Process that works on `key`, as soon as its log says so."""

        def look():
            for log in (self.root / ".lenspipe/logs/search/work").glob(f"{key}.{attempt}.log"):
                lines = [line for line in log.read_text().split("\n") if line.startswith("working on ")]
                if lines:
                    return int(lines[-1].split()[-1])
            return None

        return until(look, PATIENCE)

    def begun(self):
        """Key -> how often some process began to work on it."""
        logs = (self.root / ".lenspipe/logs/search/work").glob("*.log")
        return Counter(line.split()[2] for log in logs for line in log.read_text().split("\n") if "working on" in line)

    def assert_each_unit_is_done_once(self):
        found = {unit: [receipt["status"] for receipt in receipts] for unit, receipts in ended(self.root).items()}
        assert found == {unit: ["ok"] for unit in [("make", ""), *(("work", key) for key in KEYS), ("gather", "")]}
        rows = (self.root / "search/figures.json").read_text()
        assert all(f'"{key}": "{key} 1 0 ' in rows for key in KEYS)


@pytest.fixture
def run(slurm, tmp_path):
    made = Run(slurm, tmp_path)
    yield made
    for job in made.jobs():
        slurm("scancel", job)
    for pid in made.left():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def nodes(slurm):
    """Every node is back after the test."""
    yield slurm
    for name, state in slurm.states().items():
        if state != "idle":
            slurm.start_node(name)
    until(lambda: set(slurm.states().values()) == {"idle"}, PATIENCE)


SLOW = ("make.n=4", "work.slow=['001', '002', '003']", "work.seconds=3")


def test_killed_worker_and_cancelled_block(run):
    driver = run.drive(*SLOW)
    os.kill(parent_of(run.working("001")), signal.SIGKILL)
    until(lambda: run.begun()["001"] == 2, PATIENCE)
    job = next(job for job, (_, state, _) in run.jobs().items() if state == "RUNNING")
    run.slurm("scancel", job)
    assert driver.wait(PATIENCE) == 0, run.said()
    run.assert_each_unit_is_done_once()
    assert sum(run.begun().values()) <= len(KEYS) + 2
    assert not run.jobs()
    until(lambda: not run.left(), PATIENCE)


def test_killed_slurmd(run, nodes):
    driver = run.drive(*SLOW)
    run.working("001")
    node = next(node for _, state, node in run.jobs().values() if state == "RUNNING")
    nodes.kill_node(node)
    assert driver.wait(PATIENCE) == 0, run.said()
    run.assert_each_unit_is_done_once()
    until(lambda: not run.left(), PATIENCE)


def test_killed_driver_outside_leaves_no_block(run):
    driver = run.drive(*SLOW)
    run.working("001")
    driver.kill()
    driver.wait()
    until(lambda: not run.jobs() and not run.left(), PATIENCE)
    assert run.drive(*SLOW).wait(PATIENCE) == 0
    assert "taking over from process" in run.said()
    run.assert_each_unit_is_done_once()


def test_killed_driver_inside_its_job(run):
    job = run.submit(*SLOW)
    run.working("001")
    os.kill(run.driver(), signal.SIGKILL)
    until(lambda: not run.jobs() and not run.left(), PATIENCE)
    assert run.submit(*SLOW) != job
    until(lambda: not run.jobs(), PATIENCE)
    run.assert_each_unit_is_done_once()


def test_requeued_copy_beside_its_old_self(run, nodes):
    """The driver hangs, its node counts as dead and the job starts again elsewhere; then the driver comes to itself."""
    run.submit(*SLOW)
    run.working("001")
    old, node = run.driver(), next(iter(run.jobs().values()))[2]
    os.kill(old, signal.SIGSTOP)
    nodes.kill_node(run.slurm("scontrol", "show", "hostnames", node).split()[0])
    until(lambda: not run.jobs(), PATIENCE)
    run.assert_each_unit_is_done_once()
    assert "an earlier start of this job" in run.said()
    assert old in run.drivers()
    os.kill(old, signal.SIGCONT)
    until(lambda: not run.left(), PATIENCE)
    assert "this process stops" in run.said()
    run.assert_each_unit_is_done_once()


def test_signal_before_the_walltime_ends_what_runs_and_requeues(run):
    job = run.submit(*SLOW)
    run.working("001")
    run.slurm("scancel", "--signal=USR1", "--batch", job)
    until(lambda: not run.jobs(), PATIENCE)
    said = run.said()
    assert "ended before all was done" in said
    run.assert_each_unit_is_done_once()
    assert run.begun() == dict.fromkeys(KEYS, 1)  # what ran was ended, not begun again


@pytest.mark.parametrize("inside", [True, False])
def test_cancel_ends_everything(run, inside):
    if inside:
        run.submit(*SLOW[:-1], "work.seconds=100")
    else:
        driver = run.drive(*SLOW[:-1], "work.seconds=100")
    run.working("001")
    argv = [sys.executable, "-m", "lenspipe", "cancel", str(run.root)]
    done = subprocess.run(argv, cwd=ROOT, env=run.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cancelled " in done.stdout
    if not inside:
        assert driver.wait(PATIENCE) == 143
    until(lambda: not run.jobs() and not run.left(), PATIENCE)


def test_blocks_are_capped_in_total(run):
    site = SITE | {"executors": {"cpu": {**SITE["executors"]["cpu"], "total_blocks": 1, "max_blocks": 1}}}
    (run.folder / "site.yaml").write_text(yaml.safe_dump(site))
    driver = run.drive(*SLOW)
    run.working("001")
    (job,) = run.jobs()
    run.slurm("scancel", job)
    assert driver.wait(PATIENCE) == 1
    assert "total_blocks are spent" in run.said()
    assert not run.jobs()


def test_refused_account_is_said(run):
    (run.folder / "site.yaml").write_text(yaml.safe_dump(SITE | {"account": "nobody"}))
    if run.slurm.accounts:
        assert run.drive(*SLOW).wait(PATIENCE) == 1
        assert "Invalid account" in run.said()
