"""The doctor: this machine and its workers for real, and what it makes of machines that are worse off."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lenspipe.backends import probe
from lenspipe.backends.doctor import compare, examine, show, there
from lenspipe.backends.probe import facts
from lenspipe.backends.site import Site
from lenspipe.cli import app

ROOMY = {"memory_gb": 64.0, "disk_gb": 500.0, "cores": 4, "cores_allowed": None}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return {**facts(tmp_path_factory.mktemp("facts")), **ROOMY}


def problems(checks):
    return {check.name: check.level for check in checks if check.level != "ok"}


def test_every_worker_of_the_local_site_does_a_real_task_and_agrees(tmp_path):
    checks = there(Site(name="test", cores=1, gpus=()), tmp_path, 2, facts(tmp_path))
    assert {check.where for check in checks} == {"local"}
    assert not [check for check in checks if check.level == "fail"], show(checks)
    (worker,) = [check for check in checks if check.name == "worker"]
    assert "over loopback" in worker.found
    assert list(tmp_path.iterdir()) == []


def test_gpus_that_are_not_there_are_said(tmp_path):
    site = Site(name="test", executors={"gpu": {"accelerators": ["0"], "cores_per_node": 1}}, backend="inline")
    checks = {check.name: check for check in there(site, tmp_path, 1, facts(tmp_path))}
    if not checks["gpus"].found.startswith("none, so everything runs on CPUs"):
        pytest.skip("this machine has a GPU")
    assert checks["accelerators"].level == "fail"
    assert "`accelerators`" in checks["accelerators"].todo


def test_more_gpus_than_a_node_has_are_said(tmp_path, healthy, monkeypatch):
    two = {"gpu_devices": 2, "gpus": ["T4"], "gpu_memory_gb": [16.0], "torch_cuda": "13.0"}
    monkeypatch.setattr(probe, "facts", lambda folder: {**healthy, **two})

    def levels(*names):
        site = Site(name="test", executors={"gpu": {"accelerators": names, "cores_per_node": 1}}, backend="inline")
        return {check.level for check in there(site, tmp_path, 1, healthy) if check.name == "accelerators"}

    assert levels("0", "1", "2") == {"fail"}
    assert levels("0", "1") == levels("0", "1", "2", "3") == set()  # two workers share a GPU


def test_workers_keep_to_their_cores(tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core")
    half = len(os.sched_getaffinity(0)) // 2
    site = Site(name="test", executors={"two": {"cores_per_node": 2, "affinity": "block"}})
    checks = {check.name: check for check in there(site, tmp_path, 2, facts(tmp_path)) if check.where == "two"}
    assert checks["worker"].level == "ok", show(list(checks.values()))
    assert checks["cores"].found.split()[0].rstrip(",") == str(half)


def test_image_with_cuda_says_that_it_sees_no_gpu(healthy):
    (gpus,) = [c for c in examine("x", {**healthy, "gpu_devices": 0, "torch_cuda": "13.0"}) if c.name == "gpus"]
    assert gpus.level == "ok"
    assert "torch is for CUDA 13.0" in gpus.found


def test_without_patience_no_worker_answers_and_the_logs_stay(tmp_path):
    checks = there(Site(name="test", cores=1, gpus=()), tmp_path, 0, facts(tmp_path))
    failed, logs = (next(check for check in checks if check.name == name) for name in ("worker", "logs"))
    assert (failed.level, failed.found) == ("fail", "no answer within 0.0 min")
    assert Path(logs.found).is_dir()


def test_site_that_cannot_start_is_one_failed_check(tmp_path):
    executor = {"provider": "slurm", "cores_per_node": 1}
    site = Site(name="test", interface="nowhere0", executors={"cpu": executor})
    (start, _) = there(site, tmp_path, 1, facts(tmp_path))
    assert (start.name, start.level) == ("start", "fail")
    assert "no interface 'nowhere0'" in start.found


@pytest.mark.parametrize(
    ("worse", "name", "level"),
    [
        ({"kernel": [], "kernel_used": False}, "kernel", "warn"),
        ({"kernel_used": False}, "kernel", "warn"),
        ({"cores": 16, "cores_allowed": 2.0}, "cores", "warn"),
        ({"memory_gb": 0.5}, "memory", "fail"),
        ({"memory_gb": 3.0}, "memory", "warn"),
        ({"disk_gb": 0.5}, "disk", "fail"),
        ({"files_left": 0}, "disk", "fail"),
        ({"folder_error": "PermissionError: link"}, "folder", "fail"),
        ({"hdf5_error": "BlockingIOError: unable to lock file"}, "hdf5", "fail"),
        ({"scratch_error": "OSError: Read-only file system"}, "scratch", "fail"),
        ({"gpu_devices": 2, "gpus": [], "gpus_chosen": None, "torch_cuda": None}, "gpus", "warn"),
        ({"versions": {"python": "3.11.7", "lenspipe": "0.1.0"}}, "versions", "fail"),
    ],
)
def test_each_trouble_is_found_alone_and_says_what_to_do(healthy, worse, name, level):
    sound = {"gpu_devices": 0, "gpus": [], "kernel": ["portable"], "kernel_used": True}
    assert problems(examine("x", {**healthy, **sound})) == {}
    checks = list(examine("x", {**healthy, **sound, **worse}))
    assert problems(checks) == {name: level}
    assert all(check.todo for check in checks if check.level != "ok")


@pytest.mark.parametrize(
    ("name", "memory", "words"),
    [
        ("NVIDIA A100-SXM4-40GB", 42.3, "at once 256 with three bands of 45x45 pixels"),
        ("Tesla T4", 2.0, "at once "),
    ],
)
def test_a_gpu_and_what_it_takes_are_said(healthy, name, memory, words):
    one = {"gpu_devices": 1, "gpus": [name], "gpu_memory_gb": [memory], "torch_cuda": "12.6"}
    checks = {check.name: check for check in examine("x", {**healthy, **one})}
    assert checks["gpus"].found == f"{name}, {memory:.0f} GB (torch for CUDA 12.6)"
    assert words in checks["fits together"].found
    assert "fits together" not in {check.name for check in examine("x", {**healthy, "gpus": [], "gpu_memory_gb": []})}


@pytest.mark.parametrize(
    ("other", "level"), [("python", "fail"), ("lenspipe", "fail"), ("parsl", "fail"), ("torch", "warn")]
)
def test_other_versions_on_the_worker_are_found(healthy, other, level):
    changed = {**healthy, "versions": {**healthy["versions"], other: "3.9.1"}}
    assert problems(compare("x", healthy, changed)) == {"same versions": level}
    assert problems(compare("x", healthy, healthy)) == {}


def test_command(tmp_path):
    done = CliRunner().invoke(app, ["doctor", "--out", str(tmp_path), "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code == 0) is found["ok"]
    assert {"versions", "kernel", "hdf5", "disk"} <= {check["name"] for check in found["checks"]}
