"""The figures of a whole run, and where it points to."""

import json

import pytest

from lenspipe.run.results import result_lines
from tests.run.conftest import SEARCH, drive, flow


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run"


def figures(root):
    return json.loads((root / "figures.json").read_text())


def test_headlines_stay_until_something_runs_again(tmp_path, root):
    what = flow(tmp_path)
    drive(root, what)
    first = figures(root)
    assert set(first) == {"n", "seconds"}
    assert first["n"] == 9
    assert first["seconds"] >= 0
    (root / "figures.json").write_text(json.dumps({**first, "seconds": -1.0}))
    drive(root, what)
    assert figures(root)["seconds"] == -1.0
    drive(root, flow(tmp_path, sets=("make.n=4",)))
    assert figures(root)["n"] == 4
    assert figures(root)["seconds"] >= 0


def test_two_corridors_with_the_same_figure(tmp_path, root):
    drive(root, flow(tmp_path, sets=("other.make.n=2",), other=SEARCH))
    found = figures(root)
    assert (found["search.n"], found["other.n"]) == (9, 2)
    assert "n" not in found


def test_a_run_that_fails_leaves_no_figures(tmp_path, root):
    assert drive(root, flow(tmp_path, sets=("gather.fail=true",)))[1] == 1
    assert not (root / "figures.json").exists()


def test_table(tmp_path, root):
    what = flow(tmp_path)
    assert result_lines(root, what.instances) == []
    drive(root, what)
    (root / "figures.json").write_text(json.dumps({"n": 12, "good": 0.91666, "macro_iou": None}))
    assert result_lines(root, what.instances) == [
        "  n          12",
        "  good       0.9167",
        "  macro_iou  unknown",
        f"  figures    {root}/figures.json",
    ]
