"""The image, built from nothing, turned into a SIF, run by an ordinary user and by HTCondor's container universe."""

import json
import os
import shutil
from pathlib import Path

import pytest

from lenspipe import __version__
from tests.clusters.condor import USER, CannotInstall
from tests.clusters.images import ROOT, Images
from tests.clusters.test_condor import OnAccessPoint, agrees

NAME = "lenspipe:test"
SIF = "/opt/images/lenspipe.sif"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """LENSPIPE_CLUSTERS names a folder in which base and wheels are kept between runs."""
    kept = os.environ.get("LENSPIPE_CLUSTERS")
    found = Images(Path(kept) / "images" if kept else tmp_path_factory.mktemp("images"))
    try:
        found.install()
    except CannotInstall as error:
        pytest.skip(f"containers: {error}")
    found.build(NAME)
    yield found
    if not kept:
        shutil.rmtree(found.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def sif(images, pool):
    """The image as a file in the pool, built there by an ordinary user."""
    try:
        pool.install_apptainer()
    except CannotInstall as error:
        pytest.skip(f"Apptainer: {error}")
    place = pool.root / SIF[1:]
    place.parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / "containers/lenspipe.def", place.parent)
    images.archive(NAME, place.parent / "lenspipe.tar")
    pool("chown", "-R", f"{USER}:", str(Path(SIF).parent), user="root")
    fast = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")
    pool("apptainer", "build", "--force", *fast, "--build-arg", "FROM=lenspipe.tar", SIF, "lenspipe.def",
         cwd=str(Path(SIF).parent))  # fmt: skip
    yield SIF
    shutil.rmtree(place.parent)


def test_image_runs_as_an_ordinary_user_and_knows_its_health(images):
    (found,) = [json.loads(images.buildah("inspect", "--type", "image", NAME))["Docker"]["config"]]
    assert found["User"] == "lenspipe"
    assert found["Healthcheck"]["Test"] == ["CMD", "lenspipe", "doctor"]
    assert found["Labels"]["org.lenspipe.variant"] == "cpu"


def test_ordinary_user_runs_the_sif(pool, sif):
    """With no more rights than his own, the compiled kernel inside and nothing of this machine's packages."""
    said = pool("apptainer", "exec", "--cleanenv", sif, "lenspipe", "doctor", "--json").stdout
    checks = {check["name"]: (check["level"], check["found"]) for check in json.loads(said)["checks"]}
    assert "fail" not in {level for level, _ in checks.values()}
    assert pool("apptainer", "exec", sif, "lenspipe", "--version").stdout.split()[-1] == __version__
    who = pool("apptainer", "exec", sif, "sh", "-c", "id -un; command -v lenspipe; command -v g++ || true").stdout
    assert who.split() == [USER, "/opt/lenspipe/bin/lenspipe"]


def test_container_universe_makes_the_same_catalogue(pool, sif, reference):
    run = OnAccessPoint(pool, "boxed", image=sif, disk_gb=4)
    try:
        assert "search.model: 4 units in 2 jobs" in run.submit()
        run.wait()
        agrees(run.made(), reference)
    finally:
        run("cancel", "run")
    assert f"container_image = {sif}" in (run.dag / "candidates.sub").read_text()
