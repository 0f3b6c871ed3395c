"""Site files and the files that come with the package."""

import os

import pytest

from lenspipe import stages
from lenspipe.backends.site import WORKFLOWS, find, load_site
from lenspipe.errors import LenspipeError


def test_local_comes_with_lenspipe():
    site = load_site("local", stages.NAMES)
    assert site.backend == "parsl"
    assert site.capacity().pools[0].slots == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\ncoers: 2\n", "coers: unknown key; did you mean 'cores'?"),
        ("name: x\nper_task: {modle: 2}\n", "there is no stage 'modle'; did you mean 'model'?"),
        ("name: x\ncores: none\n", "cores"),
        ("name: x\nbackend: slrum\n", "backend"),
        ("name: x\nexecutors: {a: {provider: slurm, cores_per_node: 4}}\n", "interface: executor a needs one"),
        ("name: x\ninterface: lo\nexecutors: {a: {provider: slurm}}\n", "cores_per_node: 'auto' is for this machine"),
        ("name: x\nexecutors: {a: {walltime: 1:00:00}}\n", "walltime"),
        ("name: x\nexecutors: {a: {walltime: '30'}}\n", "write HH:MM:SS"),
        ("name: x\nexecutors: {a: {lancher: srun}}\n", "did you mean 'launcher'?"),
        ("name: x\nexecutors: {a: {walltime: '00:30:00', drain_minutes: 30}}\n", "would never take a task"),
        ("name: x\nexecutors: {a: {cores_per_node: 3, affinity: 'list:0:1'}}\n", "for 2 workers, and a node has 3"),
        ("name: x\nexecutors: {a: {affinity: near}}\n", "affinity"),
        ("name: x\ncores: 2\nexecutors: {a: {}}\n", "executors say their own"),
    ],
)
def test_wrong_site(tmp_path, text, words):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(LenspipeError) as caught:
        load_site(str(path), stages.NAMES)
    assert words in str(caught.value)


def test_unknown_site_names_the_nearest():
    with pytest.raises(LenspipeError, match="did you mean 'local'"):
        find("locl", WORKFLOWS / "sites", "site")


def test_perlmutter_sends_stages_to_its_executors(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    site = load_site("perlmutter", stages.NAMES, ["account=m1234", "executors.cpu.max_blocks=2"])
    assert site.account == "m1234"
    for where in (site.capacity(), site.inside_job().capacity()):
        placed = {name: where.place(name, stages.get(name).resources).label for name in stages.NAMES}
        nets = {"segment", "train", "estimate", "train_estimates"}
        assert {name for name, label in placed.items() if label == "gpu"} == {*nets, "model"}
    pools = {pool.label: pool for pool in site.capacity().pools}
    assert (pools["cpu"].slots, pools["cpu"].widest, pools["gpu"].slots) == (256, 1, 4)
    inside = {pool.label: pool for pool in site.inside_job().capacity().pools}
    assert (inside["cpu"].slots, inside["gpu"].slots) == (3 * 48, 3 * 4)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "gpu"),
        ({"device": "cuda"}, "gpu"),
        ({"engine": "torch"}, "gpu"),
        ({"device": "cpu"}, "cpu"),
        ({"engine": "kernel"}, "cpu"),
        ({"preset": "reference"}, "cpu"),
        ({"model": {"source": ["SHAPELETS"]}}, "cpu"),
    ],
)
def test_fits_go_to_gpus_where_they_can_use_them(options, label):
    stage = stages.get("model")
    needed = stage.needs(stage.config.model_validate(options))
    capacity = load_site("perlmutter", stages.NAMES).capacity()
    pool = capacity.place("model", needed)
    assert pool.label == label
    assert capacity.keys_of_task("model", needed, pool, 1000, 4) == (250 if label == "gpu" else 1)


def test_gpus_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    site = load_site("local", stages.NAMES)
    pools = {pool.label: pool for pool in site.capacity().pools}
    assert pools["gpu"].slots == 2
    assert site.capacity().place("segment", stages.get("segment").resources).label == "gpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [pool.label for pool in site.capacity().pools] == ["local"]


def test_scratch_and_the_place_to_keep_things(monkeypatch, tmp_path):
    site = load_site("perlmutter", stages.NAMES, ["publish=$CFS/kept"])
    monkeypatch.setenv("PSCRATCH", str(tmp_path))
    assert not site.warning(tmp_path / "runs/mine")
    assert "does not lie on $PSCRATCH" in site.warning(tmp_path.parent)
    assert "may be purged" in load_site("perlmutter", stages.NAMES).warning(tmp_path)
    assert not load_site("local", stages.NAMES).warning(tmp_path)
    monkeypatch.setenv("CFS", "/cfs")
    assert str(site.kept_in()) == "/cfs/kept"
    monkeypatch.delenv("CFS")
    with pytest.raises(LenspipeError, match="names a variable that is not set"):
        site.kept_in()
