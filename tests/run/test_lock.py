"""One run at a time in a folder."""

import json
import os
import subprocess
import sys

import pytest

from lenspipe.errors import LenspipeError
from lenspipe.run.lock import hold, holder


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


@pytest.mark.parametrize("how", ["dead", "number used again", "other host"])
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
    if how == "other host":
        with pytest.raises(LenspipeError, match="on elsewhere since"), hold(tmp_path, said.append):
            pass
        return
    with hold(tmp_path, said.append):
        assert holder(tmp_path)["pid"] == os.getpid()
    assert len(said) == 1
    assert said[0].startswith(f"taking over from process {who['pid']}")
