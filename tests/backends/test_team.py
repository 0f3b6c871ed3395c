"""Tasks for several processes, started by the launcher of where the worker is."""

import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from lenspipe.backends.child import open_child
from lenspipe.backends.team import command, outside_of_teams
from lenspipe.stage import Task
from lenspipe.stages import convert


def task(**more):
    return Task("convert", "", ("",), {}, {}, {}, 0, cpus=3, **more)


def test_in_a_slurm_job_srun_starts_them_over_its_nodes():
    inside = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2"}
    srun = command("mpi", task(ranks=8), inside)
    assert srun[:3] == ["srun", "--jobid=17", "--overlap"] and srun[-1] == sys.executable
    assert {"--nodes=2", "--ntasks=8", "--cpus-per-task=3", "--kill-on-bad-exit=1", "--mpi=pmi2"} < set(srun)
    assert "--mpi=pmi2" not in command("torch", task(ranks=8), inside)


def test_elsewhere_what_this_machine_has():
    assert command("torch", task(ranks=2), {})[1:3] == ["-m", "torch.distributed.run"]
    pytest.importorskip("mpi4py", reason="no mpi4py: pip install 'lenspipe[mpi]'")
    assert Path(command("mpi", task(ranks=2), {})[0]).name == "mpirun"


def test_ranks_do_not_take_a_worker_s_place_for_theirs():
    worker = {
        "SLURM_PROCID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "CUDA_VISIBLE_DEVICES": "3",
        "SLURM_CONF": "a",
        "X": "y",
    }
    assert outside_of_teams(worker) == {"SLURM_CONF": "a", "X": "y"}


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_task_of_several_ranks_leaves_what_one_leaves(tmp_path, ranks):
    pytest.importorskip("mpi4py", reason="no mpi4py: pip install 'lenspipe[mpi]'")
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "abcde":
        fits.PrimaryHDU(rng.normal(size=(2, 25, 25))).writeto(tmp_path / f"in/{name}.fits")
    options = {"source": str(tmp_path / "in"), "survey": {"pixel_scale": 0.3, "psf_fwhm": 1.0}, "shard_size": 2}
    outputs = {product.name: product.path for product in convert.STAGE.outputs}
    root = tmp_path / "run"
    (root / ".lenspipe").mkdir(parents=True)
    with open_child(root, "lenspipe.stages") as child:
        done = child.submit(Task("convert", "", ("",), options, {}, outputs, 0, ranks=ranks), "local").result()
        (receipt,) = done["receipts"]
        assert receipt["status"] == "ok"
        assert sorted(path.name for path in (root / "shards").iterdir()) == ["000000.h5", "000001.h5", "000002.h5"]
        assert not list((root / ".lenspipe").glob("team-*"))
        alone = child.submit(Task("select", "", ("",), {}, {}, {}, 0, ranks=2), "local").result()
        assert alone["mistake"] == "select is the work of one process; the site says 2 ranks."
