"""Real Parsl, real crashes: killed children, workers and drivers. Each test is one driver process or two."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.backends.processes import MARK, ended, marked, parent_of, until
from tests.run.conftest import flow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """Start a driver of the toy workflow; whatever is left of it in the end is ended."""
    flow(tmp_path)
    mark = uuid.uuid4().hex
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: mark}

    def start(*sets, per_task=1, factor=1.0):
        places = [str(tmp_path / "flow.yaml"), str(tmp_path / "run"), str(per_task), str(factor)]
        argv = [sys.executable, "-m", "tests.backends.drive", *places, *sets]
        with (tmp_path / "said.txt").open("a") as said:
            return subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=said, stderr=said)

    start.root = tmp_path / "run"
    start.left = lambda: marked(mark)
    start.said = lambda: (tmp_path / "said.txt").read_text()
    yield start
    for pid in start.left():
        os.kill(pid, signal.SIGKILL)


def started(root, key, attempt=1):
    """Process that works on `key`, as soon as its log says so."""

    def look():
        for log in (root / ".lenspipe/logs/search/work").glob(f"*.{attempt}.log"):
            for line in log.read_text().split("\n"):
                if line.startswith(f"working on {key} in "):
                    return int(line.split()[-1])
        return None

    return until(look)


def test_poison_is_quarantined_and_the_others_finish(run):
    assert run("work.kill=['003']", "work.slow=['008']", "work.seconds=30", per_task=4, factor=0.04).wait(200) == 3
    units = ended(run.root)
    assert all(len(receipts) == 1 for receipts in units.values())
    reasons = {key: units["work", key][0]["reason"] for key in (f"{i:03d}" for i in range(9))}
    assert {key: reason for key, reason in reasons.items() if reason} == {"003": "task_crashed", "008": "time_limit"}
    assert "signal SIGKILL" in units["work", "003"][0]["detail"]
    assert units["work", "003"][0]["attempt"] == 2
    figures = json.loads((run.root / "search/figures.json").read_text())
    assert len(figures["rows"]) == 7
    assert set(figures["failures"]["work"]) == {"003", "008"}
    assert until(lambda: not run.left())


def test_killed_child_and_killed_worker_run_that_unit_again_and_nothing_else(run):
    driver = run("make.n=2", "work.slow=['000', '001']", "work.seconds=3")
    os.kill(started(run.root, "000"), signal.SIGKILL)
    os.kill(parent_of(started(run.root, "001")), signal.SIGKILL)
    assert driver.wait(200) == 0
    units = ended(run.root)
    assert {unit: len(receipts) for unit, receipts in units.items()} == {
        ("make", ""): 1,
        ("work", "000"): 1,
        ("work", "001"): 1,
        ("gather", ""): 1,
    }
    assert units["work", "000"][0]["attempt"] == 2
    said = (run.root / ".lenspipe/logs/search" / "work/001.1.log").read_text()
    assert said.count("working on 001") == 2


def test_killed_pool_of_workers_runs_what_it_had_again_and_nothing_else(run):
    driver = run("make.n=4", "work.slow=['002', '003']", "work.seconds=8")
    pids = [started(run.root, key) for key in ("002", "003")]
    (pool,) = {parent_of(parent_of(pid)) for pid in pids}
    until(lambda: ("work", "001") in ended(run.root))
    os.kill(pool, signal.SIGKILL)
    assert driver.wait(200) == 0
    units = ended(run.root)
    assert {len(receipts) for receipts in units.values()} == {1}
    assert len(units) == 6
    logs = run.root / ".lenspipe/logs/search/work"
    begun = {key: (logs / f"{key}.1.log").read_text().count("working on") for key in ("000", "001", "002", "003")}
    assert begun == {"000": 1, "001": 1, "002": 2, "003": 2}


def test_killed_driver_leaves_nothing_running_and_the_next_run_resumes(run):
    driver = run("make.n=2", "work.slow=['001']", "work.seconds=3")
    started(run.root, "001")
    until(lambda: ("work", "000") in ended(run.root))
    driver.kill()
    driver.wait()
    until(lambda: not run.left())
    assert run("make.n=2", "work.slow=['001']", "work.seconds=3").wait(200) == 0
    assert "taking over from process" in run.said()
    assert {unit: len(receipts) for unit, receipts in ended(run.root).items()} == {
        ("make", ""): 1,
        ("work", "000"): 1,
        ("work", "001"): 1,
        ("gather", ""): 1,
    }


def test_terminated_driver_cleans_up(run):
    driver = run("make.n=2", "work.slow=['001']", "work.seconds=30")
    started(run.root, "001")
    driver.terminate()
    assert driver.wait(30) == 143
    assert not (run.root / ".lenspipe/lock").exists()
    until(lambda: not run.left())


@pytest.mark.parametrize("starts", [2, 8])
def test_only_the_newest_of_parsls_logs_stay(tmp_path, starts):
    from lenspipe.backends.parsl import KEPT_LOGS, _prune

    names = [f"{number:03d}" for number in range(starts)]
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (number, number))
    _prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[-KEPT_LOGS + 1 :]
