"""The whole pipeline on Slurm, both ways: inside one job, and with blocks that a driver outside asks for."""

import pytest
import yaml

from lenspipe.backends.slurm import job_name
from tests.backends.processes import until
from tests.clusters.miniature import NAMES, Miniature
from tests.clusters.slurm import ACCOUNT

WORKERS = {
    "cpu": {"cores_per_node": 1, "srun_options": "--cpus-per-task=1 --gpus-per-node=0"},
    "gpu": {"cores_per_node": 1, "srun_options": "--cpus-per-task=1 --gpu-bind=none", "accelerators": ["3", "2"]},
}
BLOCKS = {"provider": "slurm", "launcher": "srun", "walltime": "00:10:00", "exclusive": False}
SITE = {
    "name": "test",
    "account": ACCOUNT,
    "qos": "debug",
    "interface": "lo",
    "heartbeat_seconds": 2,
    "lost_seconds": 30,
    "environment": {"HDF5_USE_FILE_LOCKING": "FALSE"},
    "executors": {
        "cpu": {**WORKERS["cpu"], **BLOCKS, "constraint": "cpu", "max_blocks": 2},
        "gpu": {**WORKERS["gpu"], **BLOCKS, "constraint": "gpu"},
    },
    "job": {
        "constraint": "gpu",
        "nodes": 2,
        "walltime": "00:10:00",
        "cpus_per_node": 2,
        "gpus_per_node": 4,
        "options": ["--gpu-bind=none"],
        "executors": WORKERS,
    },
}


@pytest.fixture
def miniature(slurm, tmp_path):
    made = Miniature(tmp_path, slurm.environment)
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(SITE))
    yield made
    for job, (name, _, _) in slurm.jobs().items():
        if name.startswith(job_name(made.root)):
            slurm("scancel", job)
    made.end()


def test_whole_run_inside_one_job(slurm, miniature, reference):
    said = miniature("submit", "search", "--out", "run", "--site", "site.yaml")
    job = said.split()[1].rstrip(";")
    assert f"JobId={job} " in slurm("scontrol", "show", "job", job)
    until(lambda: job not in slurm.jobs(), 300)
    (log,) = (miniature.root / ".lenspipe/logs").glob("driver-*.log")
    assert miniature.made() == reference, log.read_text()
    assert "has no GPUs" not in log.read_text()
    if slurm.accounts:
        (line,) = slurm("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,Account,QOS,AllocTRES").splitlines()
        state, account, qos, resources = line.split("|")
        assert (state, account, qos) == ("COMPLETED", ACCOUNT, "debug")
        assert "gres/gpu=8" in resources


def test_blocks_of_a_driver_outside(slurm, miniature, reference):
    miniature("run", "search", "--out", "run", "--site", "site.yaml")
    assert miniature.made() == reference
    until(lambda: not slurm.jobs(), 30)
    blocks = miniature.root / ".lenspipe/parsl/000/submit_scripts"
    texts = [path.read_text() for path in blocks.glob("lenspipe-*") if path.suffix[1:].isdigit()]
    assert {"cpu", "gpu"} == {
        line.split("=")[1] for text in texts for line in text.splitlines() if "constraint" in line
    }
    assert set(miniature.receipts("model")) == set(NAMES)
