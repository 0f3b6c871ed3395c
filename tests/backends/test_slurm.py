"""Text of jobs, asserted against files a person can read, and the names by which a run's jobs are known."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lenspipe import stages
from lenspipe.backends import slurm
from lenspipe.backends.parsl import Condor, Slurm, _condensed, _provider
from lenspipe.backends.site import load_site
from lenspipe.errors import LenspipeError

GOLDEN = Path(__file__).parent / "golden"
ARGUMENTS = ["search", "--out", "/pscratch/sd/u/user/runs/mine", "--site", "perlmutter", "--set", "convert.source=a b"]


def assert_is_golden(text, name):
    """`text` is what the file holds, machine's paths aside; a change of it is meant to be seen in the diff."""
    text = text.replace(str(Path(sys.executable).parent), "/venv/bin")
    path = GOLDEN / name
    assert text == path.read_text(), f"write it anew: {path}"


@pytest.fixture
def perlmutter():
    return load_site("perlmutter", stages.NAMES, ["account=m1234", "job.nodes=2"])


def test_perlmutter_job(perlmutter):
    text = slurm.driver_job(perlmutter, Path("/pscratch/sd/u/user/runs/mine"), ARGUMENTS)
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert_is_golden(text, "perlmutter-driver.sbatch")


@pytest.mark.parametrize("label", ["cpu", "gpu"])
def test_perlmutter_block(perlmutter, label, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/where/lenspipe/lies")
    monkeypatch.setattr(Slurm, "execute_wait", lambda self, command: (0, "Submitted batch job 7\n", ""))
    monkeypatch.setattr("time.time", lambda: 0)
    provider = _provider(label, perlmutter.executors[label], perlmutter, "lenspipe-0123456789-abcdef01")
    provider.script_dir = str(tmp_path)
    assert provider.submit("process_worker_pool.py ...", 1) == "7"
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert_is_golden(text.replace(str(tmp_path), "/scripts"), f"perlmutter-block-{label}.sbatch")


@pytest.mark.parametrize("label", ["cpu", "gpu"])
def test_perlmutter_workers_inside_the_job(perlmutter, label, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/where/lenspipe/lies")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    executor = perlmutter.inside_job().executors[label]
    provider = _provider(label, executor, perlmutter, "lenspipe-0123456789-abcdef01")
    text = provider.launcher("process_worker_pool.py ...", 1, provider.nodes_per_block, "/scripts")
    text = f"{provider.worker_init}{text}".replace(f" {os.getpid()};", " DRIVER;")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert_is_golden(text, f"perlmutter-workers-{label}.sh")


def test_condor_block(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/venv/bin:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", "/where/lenspipe/lies")
    monkeypatch.chdir("/")
    said = "Submitting job(s).\n1 job(s) submitted to cluster 7.\n"
    monkeypatch.setattr(Condor, "execute_wait", lambda self, command: (0, said, ""))
    monkeypatch.setattr("time.time", lambda: 0)
    site = load_site("condor", stages.NAMES)
    provider = _provider("cpu", site.executors["cpu"], site, "lenspipe-0123456789-abcdef01")
    provider.script_dir = str(tmp_path)
    assert provider.submit("process_worker_pool.py ...", 1) == "7.0"
    (path,) = tmp_path.glob("*.submit")
    assert_is_golden(path.read_text().replace(str(tmp_path), "/scripts"), "condor-block.sub")


def test_no_more_blocks_than_the_site_allows(perlmutter, tmp_path, monkeypatch):
    monkeypatch.setattr(Slurm, "execute_wait", lambda self, command: (0, "Submitted batch job 7\n", ""))
    monkeypatch.setenv("PYTHONPATH", "")
    executor = perlmutter.executors["cpu"].model_copy(update={"total_blocks": 2})
    provider = _provider("cpu", executor, perlmutter, "lenspipe")
    provider.script_dir = str(tmp_path)
    provider.submit("", 1)
    provider.submit("", 1)
    with pytest.raises(RuntimeError, match="total_blocks are spent"):
        provider.submit("", 1)


def test_a_job_does_not_inherit_the_layout_of_another():
    environment = {"PATH": "x", "SLURM_CONF": "c", "SLURM_CPU_BIND": "1", "SBATCH_QOS": "q", "SBATCH_ACCOUNT": "a"}
    assert set(slurm.outside_of_jobs(environment)) == {"PATH", "SLURM_CONF", "SBATCH_ACCOUNT"}


def test_blocks_of_a_driver_inside_a_job_do_not_either(perlmutter, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("SLURM_CPU_BIND", "cores")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    provider = _provider("cpu", perlmutter.executors["cpu"], perlmutter, "lenspipe")
    code, said, _ = provider.execute_wait("env")
    assert code == 0
    assert "SLURM_CPU_BIND" not in said
    assert "SLURM_CONF=/etc/slurm.conf" in said


def test_what_parsl_says_of_failed_blocks_is_said_once():
    text = "".join(f"Error {i}:\n\tFailed to start block {i}: job x.17{i}.6: sbatch: error: no\n" for i in (1, 2, 3))
    assert _condensed(text) == "Failed to start block 1: job x.171.6: sbatch: error: no"


def test_jobs_of_a_run_are_those_of_its_name(monkeypatch):
    listed = "1 lenspipe-ab\n2 lenspipe-ab-cd-cpu.123\n3 lenspipe-abc\n4 other job\n"
    calls = []
    monkeypatch.setattr(slurm, "call", lambda argv: calls.append(argv) or listed)
    assert slurm.cancel("lenspipe-ab") == ["1", "2"]
    assert calls[1] == ["scancel", "1", "2"]


def test_the_name_follows_the_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert (
        slurm.job_name(tmp_path / "run") == slurm.job_name(tmp_path / "x/../run") == slurm.job_name(tmp_path / "link")
    )
    assert slurm.job_name(tmp_path / "run") != slurm.job_name(tmp_path / "other")


def test_without_slurm_one_sentence_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LenspipeError, match="squeue: there is no such command here"):
        slurm.jobs("lenspipe")
