"""Several processes for one task, started for real by the launchers that are here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lenspipe.ranks import first_host, launched

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
MPIRUN = Path(sys.executable).with_name("mpirun")
mpi = pytest.mark.skipif(not MPIRUN.exists(), reason="no mpirun: pip install 'lenspipe[mpi]'")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def start(*argv):
    return subprocess.run([*map(str, argv)], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_what_launchers_say():
    assert launched({}) == (0, 1, "")
    assert launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == (0, 1, "")  # the job's own shell
    step = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}
    assert launched(step) == (3, 4, "srun")
    # mpirun starts a process a node with srun; what that starts is its own.
    assert launched({**step, "PMI_RANK": "1", "PMI_SIZE": "2"}) == (1, 2, "mpirun")
    assert launched({**step, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}) == (0, 2, "torchrun")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n[2-4]", "n2"), ("nid[004512,004600-004601]", "nid004512"), ("a1,b[2-3]", "a1")],
)
def test_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


@mpi
def test_ranks_work_together_by_mpi():
    done = start(MPIRUN, "-n", 3, sys.executable, "-m", "tests.team", "mpi")
    assert done.stdout.splitlines() == ["[(0, 3, 'a'), (1, 3, 'a'), (2, 3, 'a')]", "mistake of rank 2", "error: rank 2"]


def test_ranks_work_together_by_torch():
    done = start(*TORCHRUN, "--nproc-per-node=2", "-m", "tests.team", "torch")
    assert done.stdout.splitlines() == ["[(0, 2, 'a'), (1, 2, 'a')]", "mistake of rank 1", "error: rank 1"], done.stderr


def test_processes_that_do_not_find_each_other_are_refused():
    pytest.importorskip("mpi4py", reason="no mpi4py: pip install 'lenspipe[mpi]'")
    environment = {**ENVIRONMENT, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}
    argv = [sys.executable, "-m", "lenspipe", "convert", "--out", os.devnull]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "srun started 4 processes, but each finds itself alone in MPI" in done.stderr
    assert "--mpi=pmi2" in done.stderr


def test_a_stage_of_one_process_is_not_started_several_times():
    environment = {**ENVIRONMENT, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    argv = [sys.executable, "-m", "lenspipe", "select", "--out", os.devnull]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip() == "lenspipe select is the work of one process, and srun started 2."
