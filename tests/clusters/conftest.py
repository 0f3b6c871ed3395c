"""Real batch systems, started for the tests and ended after them: `make test-clusters`."""

import os

import pytest

from tests.clusters.miniature import Miniature
from tests.clusters.slurm import PACKAGES, Slurm, installed


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if not installed(PACKAGES, ("slurmctld", "slurmd", "munged", "sbatch")):
        pytest.skip(f"Slurm: {', '.join(PACKAGES)} are not installed and cannot be")
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """What the miniature makes on this machine, one task after the other in one process."""
    local = Miniature(tmp_path_factory.mktemp("reference"), os.environ)
    local("run", "search", "--out", "run", "--backend", "inline")
    return local.made()
