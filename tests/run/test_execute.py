"""One task: all or nothing of its outputs, one receipt per key, no rich exception."""

import json

import pytest

from lenspipe.products import FIGURES, MASKS, SHARD
from lenspipe.run.execute import execute
from lenspipe.stage import Stage, Task, for_each
from tests.run import toys


@pytest.fixture
def root(tmp_path):
    for key in ("a", "b", "c"):
        path = tmp_path / f"c/shards/{key}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key)
    return tmp_path


def each(work, keys=("a", "b", "c"), **more):
    """A task of a batch stage whose `work(inputs, outputs, key)` is done for every key."""

    def run(config, inputs, outputs, seed):
        return {"failed": for_each(inputs["shard"], lambda key: work(inputs["shard"], outputs["masks"], key)), **more}

    stage = Stage("each", (SHARD,), (MASKS,), toys.PolishConfig, run, over=SHARD)
    inputs = {"shard": {key: f"c/shards/{key}.h5" for key in keys}}
    outputs = {"masks": {key: f"c/masks/{key}.h5" for key in keys}}
    return Task("each", "c", keys, {}, inputs, outputs, 5), stage


def copy(inputs, outputs, key):
    outputs[key].write_text(inputs[key].read_text())


def test_receipts_say_what_went_in_and_out(root):
    task, stage = each(copy, figures={"a": {"x": float("nan")}})
    result = execute(task, stage, root)
    json.dumps(result, allow_nan=False)
    assert [r["key"] for r in result["receipts"]] == ["a", "b", "c"]
    assert set(result["receipts"][0]["inputs"]) == {"shard/a"}
    made = result["receipts"][0]["outputs"]["masks/a"]
    assert made["path"] == "c/masks/a.h5"
    assert made["size"] == 1
    (path,) = (root / ".lenspipe/receipts/c/each").rglob("a.json")
    receipt = json.loads(path.read_text())
    assert receipt["versions"]["numpy"]
    assert receipt["figures"] == {"x": None}
    assert receipt["attempt"] == 1


def test_missing_input_fails_its_key_alone(root):
    (root / "c/shards/b.h5").unlink()
    task, stage = each(copy)
    found = {r["key"]: r["reason"] for r in execute(task, stage, root)["receipts"]}
    assert found == {"a": "", "b": "file_missing", "c": ""}


def test_output_that_was_not_made_or_is_empty_is_never_renamed(root):
    def forget(inputs, outputs, key):
        if key != "b":
            outputs[key].touch()

    task, stage = each(forget)
    result = execute(task, stage, root)
    assert result["died"]["reason"] == "internal_error"
    assert result["receipts"] == []
    task, stage = each(forget, keys=("b",))
    (receipt,) = execute(task, stage, root)["receipts"]
    assert "ended without its output c/masks/b.h5" in receipt["detail"]
    assert list((root / "c/masks").iterdir()) == []


def test_old_output_survives_a_failure(root):
    task, stage = each(copy)
    execute(task, stage, root)

    def half(inputs, outputs, key):
        outputs[key].write_text("half")
        raise SystemExit(1)

    task, stage = each(half, keys=("a",))
    assert execute(task, stage, root)["receipts"][0]["reason"] == "internal_error"
    assert (root / "c/masks/a.h5").read_text() == "a"
    assert len(list((root / "c/masks").iterdir())) == 3


def test_run_once_makes_up_its_keys_but_no_path_out_of_the_folder(root):
    def run(config, inputs, outputs, seed):
        outputs["shard"][config.title].write_text("x")
        outputs["figures"].write_text("{}")
        return {}

    stage = Stage("once", (), (SHARD, FIGURES), toys.GatherConfig, run)
    task = Task("once", "c", ("",), {"title": "n1"}, {}, {"shard": "c/shards/{key}.h5", "figures": "c/f.json"}, 1)
    (receipt,) = execute(task, stage, root)["receipts"]
    assert set(receipt["outputs"]) == {"shard/n1", "figures"}
    bad = Task("once", "c", ("",), {"title": "../../x"}, {}, task.outputs, 1)
    assert execute(bad, stage, root)["receipts"][0]["reason"] == "id_invalid"


def test_threads_are_the_tasks(root, monkeypatch):
    import os

    seen = []
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    task, stage = each(lambda i, o, k: (seen.append(os.environ["OMP_NUM_THREADS"]), copy(i, o, k)), keys=("a",))
    execute(Task.from_json({**task.to_json(), "cpus": 3}), stage, root)
    assert seen == ["3"]


def test_an_attempt_that_counts_as_lost_writes_nothing_over_a_later_one(root):
    """A worker that is cut off goes on; its task is handed out again, and ends first."""

    def slow(inputs, outputs, key):
        outputs[key].write_text("from the first")
        if key == "b":
            again, stage = each(copy)
            assert len(execute(again, stage, root)["receipts"]) == 3

    task, stage = each(slow)
    result = execute(task, stage, root)
    assert result["receipts"] == []
    assert "Another attempt" in result["died"]["detail"]
    for key in ("a", "b", "c"):
        assert (root / f"c/masks/{key}.h5").read_text() == key
        (path,) = (root / ".lenspipe/receipts/c/each").rglob(f"{key}.json")
        assert json.loads(path.read_text())["status"] == "ok"
    assert not [path for path in root.rglob(".*") if path.name != ".lenspipe"]


def test_a_lost_attempt_that_fails_says_so_to_nobody(root):
    def fails(inputs, outputs, key):
        again, stage = each(copy, keys=("a",))
        execute(again, stage, root)
        raise ZeroDivisionError

    task, stage = each(fails, keys=("a",))
    assert "Another attempt" in execute(task, stage, root)["died"]["detail"]
    (path,) = (root / ".lenspipe/receipts/c/each").rglob("a.json")
    assert json.loads(path.read_text())["status"] == "ok"
