"""Ranks on Slurm's nodes: conversion by MPI, training by torch.distributed, by hand and through the DAG."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.backends.processes import until
from tests.clusters.slurm import ACCOUNT
from tests.stages.test_train import NET, write_shard
from tests.test_end_to_end import write_folder

ROOT = Path(__file__).parents[2]
LENSPIPE = [sys.executable, "-m", "lenspipe"]
SURVEY = "survey={bands: [g, r, i], pixel_scale: 0.2637, zero_point: 30}"
PATIENCE = 400


@pytest.fixture
def ranked(slurm, monkeypatch):
    """The cluster; its nodes' names do not resolve, as those of a real one do."""
    more = {"PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(slurm, "environment", {**slurm.environment, **more})
    return slurm


def shards(folder):
    return {path.name: path.read_bytes() for path in (folder / "shards").glob("*.h5")}


def test_conversion_by_four_ranks_on_two_nodes(ranked, tmp_path):
    pytest.importorskip("mpi4py", reason="no mpi4py: pip install 'lenspipe[mpi]'")
    for seed in range(10):
        write_folder(tmp_path / f"in/c{seed}", seed + 1)
    argv = ["--set", f"source={tmp_path}/in", "--set", SURVEY, "--set", "shard_size=2", "--out"]
    step = ["srun", "-N2", "-n4", f"--account={ACCOUNT}", "--time=5"]
    ranked(*step, "--mpi=pmi2", *LENSPIPE, "convert", *argv, tmp_path / "four")
    subprocess.run([*LENSPIPE, "convert", *argv, tmp_path / "one"], env=ranked.environment, check=True)
    assert len(shards(tmp_path / "one")) == 5
    assert shards(tmp_path / "four") == shards(tmp_path / "one")
    # Without a common PMI every process would be alone, and do all of the work.
    with pytest.raises(subprocess.CalledProcessError) as failed:
        ranked(*step, "--mpi=none", *LENSPIPE, "convert", *argv, tmp_path / "alone")
    assert "srun started 4 processes, but each finds itself alone in MPI" in failed.value.stderr
    assert not (tmp_path / "alone").exists()


def test_training_on_two_nodes_goes_on_after_the_signal_before_the_walltime(ranked, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(folder / "a.h5", [f"SIM{i:03d}" for i in range(200)])
    options = {"net": NET, "max_epochs": 12, "batch_size": 8, "survey": "toy", "precision": "32-true"}
    sets = [word for key, value in options.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    text = (ROOT / "jobs/train_ddp.sbatch").read_text()
    text = text.replace("lenspipe train", f"{sys.executable} -m lenspipe train").replace("sleep 60", "sleep 10")
    own = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=1", f"--account={ACCOUNT}"]
    said = tmp_path / "said.txt"
    (tmp_path / "train.sbatch").write_text(text)
    argv = ["sbatch", "--parsable", *own, "--time=10", f"--output={said}", tmp_path / "train.sbatch"]
    job = ranked(*argv, "--out", tmp_path / "out", "--input", f"shard={folder}", *sets).strip()
    checkpoints = tmp_path / "out/.train-checkpoints"
    until(lambda: len(list(checkpoints.rglob("last-*.ckpt"))) == 2, PATIENCE)
    ranked("scancel", "--batch", "--signal=USR1", job)
    until(
        lambda: f"JobId={job} " in (shown := ranked("scontrol", "show", "job", job)) and "Restarts=1" in shown, PATIENCE
    )
    until(lambda: job not in ranked.jobs(), PATIENCE)
    logs = "".join(path.read_text() for path in (tmp_path / "out/.lenspipe/logs").rglob("*.log"))
    assert "going on from last-" in logs, said.read_text()
    card = json.loads((tmp_path / "out/weights/card.json").read_text())
    assert (card["training"]["ranks"], card["training"]["epochs"]) == (2, 12)


def test_ranks_through_the_dag_over_the_nodes_of_a_job(ranked, tmp_path):
    pytest.importorskip("mpi4py", reason="no mpi4py: pip install 'lenspipe[mpi]'")
    flow = {
        "name": "training",
        "seed": 1,
        "corridors": {
            "training": {
                "simulate": {"n_lenses": 30, "n_nonlenses": 30, "supersampling": 1},
                "label": {},
                "convert": {"survey": {"bands": ["g", "r", "i"], "pixel_scale": 0.2637}, "shard_size": 16},
                "train": {"net": NET, "max_epochs": 2, "batch_size": 8},
            }
        },
    }
    site = {
        "name": "test",
        "account": ACCOUNT,
        "interface": "lo",
        "environment": {name: ranked.environment[name] for name in ("MASTER_ADDR", "GLOO_SOCKET_IFNAME")},
        "ranks": {"train": 2, "convert": 4},
        "job": {"nodes": 2, "walltime": "00:15:00", "cpus_per_node": 4, "executors": {"cpu": {"cores_per_node": 2}}},
    }
    (tmp_path / "flow.yaml").write_text(yaml.safe_dump(flow))
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))

    def lenspipe(*argv):
        return subprocess.run(
            [*LENSPIPE, *map(str, argv)],
            cwd=tmp_path,
            env=ranked.environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    job = lenspipe("submit", "flow.yaml", "--out", "run", "--site", "site.yaml").split()[1].rstrip(";")
    until(lambda: job not in ranked.jobs(), PATIENCE)
    lenspipe("run", "flow.yaml", "--out", "alone", "--backend", "inline")
    said = "".join(path.read_text() for path in (tmp_path / "run/.lenspipe/logs").rglob("*.log"))
    card = tmp_path / "run/training/weights/card.json"
    assert card.exists(), said
    assert json.loads(card.read_text())["training"]["ranks"] == 2
    assert len(shards(tmp_path / "run/training")) == 4
    assert shards(tmp_path / "run/training") == shards(tmp_path / "alone/training")
