"""The text of jobs and DAGs, held against files that a person has read, and what is refused before there is any."""

from pathlib import Path

import pytest
import yaml

from lenspipe import __version__, stages
from lenspipe.backends.dagman.batches import make
from lenspipe.backends.dagman.files import dag_text, texts
from lenspipe.backends.dagman.options import fill
from lenspipe.backends.dagman.own import cut
from lenspipe.backends.dagman.probe import probe_job
from lenspipe.backends.dagman.submit import far_stages, queued, refuse_if_queued, settings_of
from lenspipe.backends.site import load_site
from lenspipe.errors import LenspipeError
from lenspipe.run.graph import build
from lenspipe.run.workflow import load
from lenspipe.stage import Task

GOLDEN = Path(__file__).parents[1] / "golden"
PLACE = ".lenspipe/dagman/001"


def task(*keys):
    stage = stages.get("model")
    return Task(
        stage="model",
        corridor="search",
        keys=keys,
        config=stage.config().model_dump(mode="json"),
        inputs={"bundle": {key: f"search/bundles/00/{key}.h5" for key in keys}},
        outputs={"model": {key: f"search/models/00/{key}" for key in keys}},
        seed=1,
    )


@pytest.fixture
def ospool(monkeypatch):
    monkeypatch.setenv("OSPOOL_AP", "ap40")
    monkeypatch.setenv("OSPOOL_PROJECT", "Lenses")
    monkeypatch.setenv("USER", "ada")
    return load_site("ospool", stages.NAMES)


@pytest.fixture
def batches(tmp_path):
    model = stages.get("model")
    return [
        make("b00001", task("J0029-0055", "J0037-0942"), model, tmp_path, 2),
        make("b00002", task("K1"), model, tmp_path, 2),
    ]


@pytest.mark.parametrize(("name", "golden"), [("candidates.sub", "ospool.sub"), ("run.dag", "ospool.dag")])
def test_the_ospools_job_and_dag_are_as_they_were_read(ospool, batches, name, golden):
    found = texts(PLACE, "search", ospool, settings_of(ospool), batches)
    assert found[name].replace(__version__, "VERSION") == (GOLDEN / golden).read_text()


def test_the_doctors_job_on_the_ospool_is_as_it_was_read(ospool):
    found = probe_job(ospool, settings_of(ospool))
    assert found.replace(__version__, "VERSION") == (GOLDEN / "ospool-probe.sub").read_text()


def test_the_dag_of_the_second_round_is_as_it_was_read(batches):
    assert dag_text("lenspipe, again", batches, second=True) == (GOLDEN / "ospool-again.dag").read_text()


def test_a_pool_of_ones_own_needs_neither_image_nor_project(ospool, batches):
    site = ospool.model_copy(update={"account": None})
    settings = settings_of(site).model_copy(
        update={"image": None, "duration": None, "options": ("concurrency_limits = x",)}
    )
    text = texts(PLACE, "search", site, settings, batches)["candidates.sub"]
    assert "universe = vanilla" in text
    for absent in ("container_image", "ProjectName", "JobDurationCategory"):
        assert absent not in text
    assert text.splitlines()[-2:] == ["concurrency_limits = x", "queue"]


def test_a_variable_that_is_not_set_is_named(ospool, monkeypatch):
    monkeypatch.delenv("OSPOOL_AP")
    with pytest.raises(LenspipeError, match="OSPOOL_AP"):
        fill(settings_of(ospool).image, "dagman.image")
    monkeypatch.setenv("OSPOOL_AP", "ap40\nqueue 1000")
    with pytest.raises(LenspipeError, match="OSPOOL_AP"):
        fill(settings_of(ospool).image, "dagman.image")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "osdf:///ospool/ap40/data/ada/lenspipe.sif"}, "version"),
        ({"image": "a.sif\nqueue 5"}, "one line"),
        ({"options": ["a = 1\nqueue 5"]}, "one line"),
        ({"minutes_per_job": 5}, "minutes_per_job"),
        ({"executable": "lenspipe"}, "executable"),
        ({"hours": 1}, "unknown key"),
    ],
)
def test_a_site_that_cannot_work_is_refused(tmp_path, options, words):
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "dagman": {"executable": "/bin/lenspipe", **options}}))
    with pytest.raises(LenspipeError, match=words):
        load_site(str(path), stages.NAMES)


@pytest.mark.parametrize(
    ("far", "words"), [("segment, model", "waits for search.segment"), ("collect", "one task"), ("segment", "w8s")]
)
def test_stages_that_cannot_travel_are_refused(tmp_path, far, words):
    weights = None if "model" in far else "w8s"
    corridor = {"convert": {"source": "x"}, "segment": {"weights": weights}, "select": {}, "model": {}, "collect": {}}
    (tmp_path / "flow.yaml").write_text(yaml.safe_dump({"name": "x", "corridors": {"search": corridor}}))
    (tmp_path / "site.yaml").write_text(f"name: x\ndagman: {{executable: /bin/lenspipe, stages: [{far}]}}\n")
    graph = build(load(tmp_path / "flow.yaml", [], stages.get).instances)
    with pytest.raises(LenspipeError, match=words):
        far_stages(graph, settings_of(load_site(str(tmp_path / "site.yaml"), stages.NAMES)))


def test_what_is_said_of_single_candidates_travels_with_them_alone(tmp_path):
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn/far.reg").write_text("image\ncircle(3,3,2)\n")
    said = {"a": {"mask": {"ignore": "drawn/far.reg"}}, "b": {"redshifts": [0.3, 1.5]}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(said))
    before = task("a", "c")
    before.config["candidates"] = str(tmp_path / "own.yaml")
    after, sayings = cut(before, stages.get("model"), "p/b00001")
    assert after.config["candidates"] == sayings.path == "p/b00001/own.yaml"
    sayings.write(tmp_path / "run")
    travelled = stages.get("model").config.model_validate(
        {**after.config, "candidates": tmp_path / "run" / sayings.path}
    )
    own = stages.get("model").own
    here, there = own.read(stages.get("model").config.model_validate(before.config)), own.read(travelled)
    assert list(there) == ["a"]
    assert there["a"][0] == here["a"][0]
    assert [path.read_text() for path in there["a"][1]] == [path.read_text() for path in here["a"][1]]
    unsaid = task("c")
    unsaid.config["candidates"] = str(tmp_path / "own.yaml")
    after, sayings = cut(unsaid, stages.get("model"), "p/b00002")
    assert (after.config["candidates"], sayings) == (None, None)


def test_a_run_is_refused_while_its_dag_is_in_the_queue(tmp_path):
    folder = tmp_path / PLACE
    folder.mkdir(parents=True)
    assert not queued(tmp_path)
    log = "000 (041.000.000) 2026-11-21 12:00:00 Job submitted from host: <127.0.0.1>\n...\n"
    (folder / "run.dag.dagman.log").write_text(log)
    assert queued(tmp_path) == "41"
    with pytest.raises(LenspipeError, match="DAG 41"):
        refuse_if_queued(tmp_path)
    end = "009 (041.000.000) 2026-11-21 12:01:00 Job was aborted.\n...\n"
    (folder / "run.dag.dagman.log").write_text(log + end)
    assert not queued(tmp_path)
