"""Workflow files and --set: every mistake is refused by name before anything runs."""

import pytest

from lenspipe.errors import LenspipeError
from lenspipe.run.workflow import load
from tests.run import toys
from tests.run.conftest import SEARCH, flow


def config(workflow, name):
    return next(item.config for item in workflow.instances if item.name == name)


def test_defaults_and_overrides(tmp_path):
    sets = ("work.offset=3", "search.make.deep.level=4", "work.kill=[a, b]", "seed=9")
    found = flow(tmp_path, sets=sets)
    assert config(found, "search.work")["offset"] == 3
    assert config(found, "search.work")["kill"] == ["a", "b"]
    assert config(found, "search.make")["deep"]["level"] == 4
    assert found.instances[0].seed != flow(tmp_path).instances[0].seed


def test_one_stage_in_two_corridors_has_two_seeds(tmp_path):
    one, two = flow(tmp_path, {"make": {}}, other={"make": {}}).instances
    assert one.seed != two.seed


def test_override_of_what_is_written_once_for_two_places_changes_one(tmp_path):
    path = tmp_path / "flow.yaml"
    path.write_text(
        "name: toy\ncorridors:\n  one: &all {make: {deep: &deep {level: 2}}, teach: {}}\n"
        "  two: {make: {deep: *deep}}\n  three: *all\n"
    )
    found = load(path, ["one.make.deep.level=5"], toys.get)
    levels = [config(found, f"{corridor}.make")["deep"]["level"] for corridor in ("one", "two", "three")]
    assert levels == [5, 2, 2]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({"make": {"vallue": 1}}, "search.make.vallue: unknown key; did you mean 'value'?"),
        ({"make": {"deep": {"levle": 1}}}, "search.make.deep.levle: unknown key; did you mean 'level'?"),
        ({"mkae": {}}, "search.mkae: there is no stage 'mkae'; did you mean 'make'?"),
        ({"make": {"n": "many"}}, "search.make.n: input should be a valid integer"),
        ({"make": [1]}, "search.make"),
    ],
)
def test_wrong_stage_or_key_names_the_nearest(tmp_path, stages, words):
    with pytest.raises(LenspipeError) as caught:
        flow(tmp_path, stages)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_said_at_once(tmp_path):
    with pytest.raises(LenspipeError) as caught:
        flow(tmp_path, {"make": {"vallue": 1}, "wrk": {}})
    assert len(str(caught.value).split("\n")) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\ncorridor: {}\n", "did you mean 'corridors'?"),
        ("name: x\ncorridors: {../up: {}}\n", "corridor '../up'"),
        ("name: x\n corridors: [\n", "line 2: not YAML"),
        ("- 1\n", "flow.yaml"),
        ("", "flow.yaml.name: field required"),
        ("name: x\ncorridors: {search: }\n", "corridors.search"),
    ],
)
def test_wrong_file(tmp_path, text, words):
    path = tmp_path / "flow.yaml"
    path.write_text(text)
    with pytest.raises(LenspipeError) as caught:
        load(path, (), toys.get)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wrok.offset=1", "there is no 'wrok' in the workflow; did you mean 'work'?"),
        ("search.wrok.offset=1", "corridor search has no stage 'wrok'; did you mean 'work'?"),
        ("work.ofset=1", "search.work.ofset: unknown key; did you mean 'offset'?"),
        ("work=1", "name a key of search.work too"),
        ("work.offset", "write KEY=VALUE"),
        ("work.offset.x=1", "offset"),
        ("make.n=[", "not YAML"),
        ("teach.x=1", "more than one corridor has teach; write a.teach or b.teach."),
    ],
)
def test_wrong_set(tmp_path, text, words):
    with pytest.raises(LenspipeError) as caught:
        flow(tmp_path, {**SEARCH, "work": {"offset": 1}}, (text,), a={"teach": {}}, b={"teach": {}})
    assert words in str(caught.value)
