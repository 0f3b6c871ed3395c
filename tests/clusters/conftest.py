"""Real batch systems, started for the tests and ended after them: `make test-clusters`."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.clusters.condor import CannotInstall, Pool
from tests.clusters.miniature import Miniature
from tests.clusters.slurm import PACKAGES, Slurm, installed


def pytest_configure():
    """SIGTERM ends pytest as Ctrl-C does, through its fixtures: no daemon stays behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
def pool(tmp_path_factory):
    """A personal HTCondor pool; LENSPIPE_CLUSTERS names a folder in which its Debian is kept between runs."""
    kept = os.environ.get("LENSPIPE_CLUSTERS")
    found = Pool(Path(kept) / "condor" if kept else tmp_path_factory.mktemp("condor") / "root")
    try:
        try:
            found.install()
        except CannotInstall as error:
            pytest.skip(f"HTCondor: {error}")
        found.start()
        yield found
    finally:
        found.stop()
        if not kept:
            shutil.rmtree(found.root, ignore_errors=True)


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """What the miniature makes on this machine, one task after the other in one process."""
    local = Miniature(tmp_path_factory.mktemp("reference"), os.environ)
    local("run", "search", "--out", "run", "--backend", "inline")
    return local.made()
