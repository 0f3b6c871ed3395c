"""One run at a time in a folder."""

import json
import os
import subprocess
import sys
import time

import pytest

from lenspipe.errors import LenspipeError
from lenspipe.run import lock
from lenspipe.run.ledger import Ledger
from lenspipe.run.lock import SILENCE, TakenOver, hold, holder


def test_second_run_is_refused_and_told_who_holds_it(tmp_path):
    in_use = pytest.raises(LenspipeError, match=f"in use by process {os.getpid()} of ")
    with hold(tmp_path, print), in_use, hold(tmp_path, print):
        raise AssertionError("held twice")
    assert holder(tmp_path) is None
    assert [p.name for p in (tmp_path / ".lenspipe").iterdir()] == []


def test_refused_run_leaves_the_holders_lock_alone(tmp_path):
    with hold(tmp_path, print):
        before = holder(tmp_path)
        with pytest.raises(LenspipeError), hold(tmp_path, print):
            pass
        assert holder(tmp_path) == before


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(lock, "_SETTLE", 0)


@pytest.mark.parametrize("how", ["dead", "number used again", "other host", "other host, long silent"])
def test_dead_holder(tmp_path, how):
    with hold(tmp_path, print):
        who = holder(tmp_path)
    if how == "dead":
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        who["pid"] = gone.pid
    elif how == "number used again":
        who["started"] -= 1
    else:
        who["host"] = "elsewhere"
    (tmp_path / ".lenspipe/lock").write_text(json.dumps(who))
    said = []
    if "silent" in how:
        silent = time.time() - SILENCE - 1
        os.utime(tmp_path / ".lenspipe/lock", (silent, silent))
    if how == "other host":
        with pytest.raises(LenspipeError, match="on elsewhere since"), hold(tmp_path, said.append):
            pass
        return
    with hold(tmp_path, said.append):
        assert holder(tmp_path)["pid"] == os.getpid()
    assert len(said) == 1
    assert said[0].startswith(f"taking over from process {who['pid']}")


def test_job_started_again_takes_over_and_its_old_self_writes_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    said = []
    with hold(tmp_path, said.append) as old:
        ledger = Ledger(tmp_path, old.check)
        ledger.plan("search", "work", ["a"])
        before = ledger.path.read_text()
        with pytest.raises(LenspipeError, match="in use by"), hold(tmp_path, said.append):
            pass
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with hold(tmp_path, said.append) as new:
            assert "an earlier start of this job" in said[0]
            new.check()
            with pytest.raises(TakenOver, match="has taken it over"):
                ledger.plan("search", "work", ["b"])
            assert ledger.path.read_text() == before
        assert holder(tmp_path) is None


def test_old_self_leaves_the_new_ones_lock_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    old = hold(tmp_path, print)
    old.__enter__()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with hold(tmp_path, print) as new:
        old.__exit__(None, None, None)
        new.check()


def test_a_lock_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    path = tmp_path / ".lenspipe/lock"
    with hold(tmp_path, print):
        os.utime(path, (0, 0))
        last = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < last:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0
