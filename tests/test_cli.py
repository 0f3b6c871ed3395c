"""The commands, over toy stages: exit codes, one sentence per mistake, every stage a command."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lenspipe import __version__, stages
from lenspipe.cli import main
from lenspipe.run.lock import hold
from tests.run import toys
from tests.run.conftest import SEARCH


@pytest.fixture
def lenspipe(monkeypatch, capsys):
    """Run one command line over the toy stages; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(stages, "NAMES", tuple(toys.STAGES))
    monkeypatch.setattr(stages, "get", toys.get)

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["lenspipe", *map(str, argv)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def workflow(tmp_path):
    path = tmp_path / "flow.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "corridors": {"search": SEARCH}}))
    return path


def test_version_and_help(lenspipe):
    assert lenspipe("--version")[1].strip() == f"lenspipe {__version__}"
    code, out, _ = lenspipe("--help")
    assert code == 0
    assert all(name in out for name in ("run", "status", "task", "make", "gather"))
    said = lenspipe("work", "--help")[1]
    assert "- offset (default 0)" in said
    said = lenspipe("make", "--help")[1]
    assert "- deep.level: how far down (default 1)" in said
    assert "- deep.names (default [])" in said


def test_run_again_status_and_dry_run(lenspipe, workflow, tmp_path):
    out = tmp_path / "run"
    run = ("run", workflow, "--out", out, "--backend", "inline", "--set", "work.refuse=['002']")
    code, said, lines = lenspipe(*run)
    assert code == 3
    assert "11 units ran, 0 as they were; 1 in quarantine" in said
    assert "search.work 002: image_constant: 002: all pixels are 0" in lines
    code, said, _ = lenspipe(*run)
    assert code == 3
    assert said.startswith("nothing to do: 11 units as they were; 1 in quarantine")
    code, said, _ = lenspipe(*run, "--dry-run")
    assert code == 0
    assert "search.work: 8 units as they are\nsearch.work: 1 unit in quarantine\n" in said
    code, said, _ = lenspipe("status", out)
    assert "not running\nsearch.make: 1 unit: 1 ok\nsearch.work: 9 units: 8 ok, 1 failed\n" in said
    found = json.loads(lenspipe("status", out, "--json")[1])
    assert found["stages"]["search.work"] == {"units": 9, "ok": 8, "failed": 1, "running": 0, "waiting": 0}
    assert found["quarantined"] == [
        {"stage": "search.work", "key": "002", "reason": "image_constant", "detail": "002: all pixels are 0"}
    ]
    assert found["holder"] is None
    assert lenspipe(*run, "--retry-failed")[1].startswith("1 unit ran, 10 as they were")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--set", "work.ofset=1"], "search.work.ofset: unknown key; did you mean 'offset'?"),
        (["--site", "locl"], "did you mean 'local'"),
        (["--backend", "slurm"], "there are parsl and inline"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(lenspipe, workflow, tmp_path, argv, words):
    code, out, err = lenspipe("run", workflow, "--out", tmp_path / "run", *argv)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().split("\n")) == 1
    assert not (tmp_path / "run").exists()


def test_unknown_workflow_and_folder(lenspipe, tmp_path):
    assert lenspipe("run", "nowhere.yaml", "--out", tmp_path / "run")[0] == 2
    code, _, err = lenspipe("status", tmp_path)
    assert code == 2
    assert "not a run folder" in err


def test_stages_by_hand_one_after_the_other(lenspipe, tmp_path):
    out = tmp_path / "by_hand"
    assert lenspipe("make", "--out", out, "--set", "n=3", "--seed", 4)[0] == 0
    code, _, err = lenspipe("work", "--out", out, "--set", "refuse=['001']")
    assert code == 3
    assert "work 001: image_constant" in err
    assert lenspipe("gather", "--out", out)[0] == 0
    figures = json.loads((out / "figures.json").read_text())
    assert sorted(figures["rows"]) == ["000", "002"]
    assert figures["failures"] == {"work": {"001": {"reason": "image_constant", "detail": "001: all pixels are 0"}}}
    assert "work: 3 units: 2 ok, 1 failed" in lenspipe("status", out)[1]


def test_stage_by_hand_on_files_named(lenspipe, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    lenspipe("make", "--out", data, "--set", "n=4")
    index = f"shards={data}/shards.ecsv"
    shards = [f"--input=shard={data}/shards/{key}.h5" for key in ("000", "002")]
    assert lenspipe("work", "--out", out, "--input", index, *shards)[0] == 0
    assert sorted(p.name for p in (out / "masks").iterdir()) == ["000.h5", "002.h5"]
    assert lenspipe("work", "--out", out, "--input", index, f"--input=shard={data}/shards")[0] == 0
    assert len(list((out / "masks").iterdir())) == 4
    lenspipe("teach", "--out", data)
    assert (
        lenspipe(
            "work", "--out", out, "--input", index, f"--input=shard={data}/shards", f"--input=weights={data}/weights"
        )[0]
        == 0
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--input", "shrad=x"], "has no input 'shrad'; did you mean 'shard'?"),
        (["--input", "shard=/nowhere"], "/nowhere is not there"),
        (["--set", "ofset=1"], "work.ofset: unknown key; did you mean 'offset'?"),
        ([], "work needs shard: give --input shard=PATH"),
    ],
)
def test_mistakes_by_hand(lenspipe, tmp_path, argv, words):
    code, _, err = lenspipe("work", "--out", tmp_path / "out", *argv)
    assert code == 2
    assert words in err


def test_task_file(lenspipe, tmp_path):
    from lenspipe.stage import Task

    outputs = {"shards": "c/shards.ecsv", "shard": "c/shards/{key}.h5"}
    (tmp_path / "task.json").write_text(json.dumps(Task("make", "c", ("",), {"n": 2}, {}, outputs, 1).to_json()))
    code, out, _ = lenspipe("task", tmp_path / "task.json", "--root", tmp_path)
    assert code == 0
    assert set(json.loads(out)["receipts"][0]["outputs"]) == {"shards", "shard/000", "shard/001"}
    (tmp_path / "task.json").write_text("{}")
    assert lenspipe("task", tmp_path / "task.json", "--root", tmp_path)[0] == 2


def test_second_run_in_a_folder_is_refused_and_told_who_holds_it(lenspipe, workflow, tmp_path):
    with hold(tmp_path / "run", print):
        code, _, err = lenspipe("run", workflow, "--out", tmp_path / "run", "--backend", "inline")
    assert code == 2
    assert f"in use by process {os.getpid()} of" in err


def test_finished_workflow_starts_neither_parsl_nor_the_science(workflow, tmp_path):
    script = f"""
import sys
from pathlib import Path
from pathlib import Path
from lenspipe.backends.site import Site
from lenspipe.cli import run_workflow
from lenspipe.run.workflow import load
from tests.run import toys
flow = load(Path({str(workflow)!r}), (), toys.get)
code = run_workflow(flow, Path({str(tmp_path / "run")!r}), Site(name="t"), "tests.run.toys", False, False, sys.argv[1])
print("loaded", sorted({{"parsl", "torch", "lenstronomy", "matplotlib", "pebble"}} & set(sys.modules)))
sys.exit(code)
"""
    for backend in ("inline", "parsl"):
        done = subprocess.run(
            [sys.executable, "-c", script, backend],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
    lines = done.stdout.split("\n")
    assert (lines[0], lines[-2]) == ("nothing to do: 11 units as they were", "loaded []")


def site_with(tmp_path, **more):
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"name": "there", **more}))
    return path


def test_submit_prints_the_job_it_would_hand_over(lenspipe, workflow, tmp_path):
    site = site_with(tmp_path, job={"cpus_per_node": 8, "executors": {"cpu": {"cores_per_node": 4}}})
    more = ("--site-set", "account=m1 x", "--set", "make.n=3", "--dry-run")
    code, out, _ = lenspipe("submit", workflow, "--out", tmp_path / "run", "--site", site, *more)
    assert code == 0
    assert "#SBATCH --account=m1 x\n" in out
    (line,) = [line for line in out.split("\n") if line.startswith("set -- ")]
    words = ["--site-set", "account=m1 x", "--set", "make.n=3"]
    assert shlex.split(line)[2:] == [str(workflow), "--out", str(tmp_path / "run"), "--site", str(site), *words]
    assert not (tmp_path / "run").exists()


def test_submit_needs_a_job_to_submit_and_a_job_to_work_in(lenspipe, workflow, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    where = (workflow, "--out", tmp_path / "run", "--site", site_with(tmp_path))
    assert lenspipe("submit", *where)[::2] == (
        2,
        "site there: `submit` needs a section 'job' (Slurm) or 'dagman' (HTCondor) there.\n",
    )
    assert "has no section 'job'" in lenspipe("run", *where, "--allocation")[2]
    site_with(tmp_path, job={"cpus_per_node": 8, "executors": {"cpu": {}}})
    assert "this is not a job of Slurm" in lenspipe("run", *where, "--allocation")[2]


def test_cancel_asks_all_even_where_one_does_not_answer(lenspipe, tmp_path, monkeypatch):
    for name, text in (("squeue", "echo no controller >&2; exit 1"), ("condor_q", "echo 7 7.0"), ("condor_rm", "true")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said, trouble = lenspipe("cancel", tmp_path / "run")
    assert (code, said) == (2, "cancelled 7\n")
    assert "may be left: squeue: no controller" in trouble


def test_cancel_tells_a_driver_to_stop(lenspipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    nothing = "no job of this run is waiting or running, and no process works on it\n"
    assert lenspipe("cancel", tmp_path / "run")[:2] == (0, nothing)
    with hold(tmp_path / "run", print):
        assert f"told process {os.getpid()} of" in lenspipe("cancel", tmp_path / "run")[1]
        assert (tmp_path / "run/.lenspipe/cancel").exists()
    with hold(tmp_path / "run", print):
        assert not (tmp_path / "run/.lenspipe/cancel").exists()


def test_a_finished_run_is_copied_to_where_its_site_keeps_things(lenspipe, workflow, tmp_path):
    site = site_with(tmp_path, backend="inline", publish=str(tmp_path / "kept"), scratch=str(tmp_path / "scratch"))
    code, _, err = lenspipe("run", workflow, "--out", tmp_path / "run", "--site", site)
    assert code == 0
    assert f"does not lie on {tmp_path / 'scratch'}" in err
    assert f"copied to {tmp_path / 'kept/run'}" in err
    assert (tmp_path / "kept/run/search/figures.json").exists()
