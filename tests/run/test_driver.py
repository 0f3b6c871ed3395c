"""Runs of toy workflows: what runs, what runs again, what is quarantined."""

import json
import os
import shutil
import signal
import threading
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace

import pytest

from lenspipe.run import fingerprint
from lenspipe.run.capacity import Capacity, Pool, machine
from lenspipe.run.driver import Driver
from lenspipe.run.execute import execute
from lenspipe.run.folder import CANCEL
from lenspipe.run.graph import build
from lenspipe.run.ledger import Ledger
from lenspipe.run.progress import Lines
from lenspipe.stage import Resources
from tests.backends.processes import until
from tests.run import toys
from tests.run.conftest import drive, flow, ran

EVERYTHING = {"make": {}, "work": {}, "polish": {}, "gather": {}}


def figures(tmp_path):
    return json.loads((tmp_path / "run/search/figures.json").read_text())


def test_fan_out_then_nothing_to_do(again, tmp_path):
    driver, code = again()
    assert code == 0
    assert ran(driver) == {"make": 1, "work": 9, "gather": 1}
    assert sorted(figures(tmp_path)["rows"]) == [f"{i:03d}" for i in range(9)]
    driver, code = again()
    assert (ran(driver), code) == ({}, 0)
    assert driver.summary() == "nothing to do: 11 units as they were"


def test_nothing_to_do_opens_no_backend(again, tmp_path):
    again()
    what = flow(tmp_path)
    driver = Driver(build(what.instances), tmp_path / "run", machine(2), Ledger(tmp_path / "run"), Lines())

    def refuse():
        raise AssertionError("opened")

    assert driver.run(refuse) == 0


def test_deleted_output_runs_that_unit_alone(again, tmp_path):
    again()
    (tmp_path / "run/search/masks/004.h5").unlink()
    driver, _ = again()
    assert ran(driver) == {"work": 1}
    assert driver.why["search.work"] == {"004": "output missing: masks/004"}


def test_changed_output_is_made_again(again, tmp_path):
    again()
    mask = tmp_path / "run/search/masks/004.h5"
    whole = mask.read_text()
    mask.write_text("flipped")
    driver, _ = again()
    assert driver.why["search.work"] == {"004": "output changed: masks/004"}
    assert mask.read_text() == whole


def test_touched_output_is_not_made_again(again, tmp_path):
    again()
    (tmp_path / "run/search/masks/004.h5").touch()
    driver, _ = again()
    assert ran(driver) == {}


def test_changed_config_says_what_changed(again):
    again()
    driver, _ = again("work.offset=5")
    assert ran(driver) == {"work": 9, "gather": 1}
    assert set(driver.why["search.work"].values()) == {"config changed: offset 0 -> 5"}
    assert driver.why["search.gather"][""].startswith("input changed: masks/000, masks/001, masks/002 and 6 more")


def test_same_content_stops_the_cascade(again):
    again("work.same=true")
    driver, _ = again("work.same=true", "make.value=2")
    assert ran(driver) == {"make": 1, "work": 9}


def test_files_named_by_options_count_by_content(again, tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("a.fits", "b.fits")]
    for path in paths:
        path.write_text(path.stem)
    named = f"make.source=[{paths[0]}, {paths[1]}]"
    again(named)
    hashed = []
    actual = fingerprint.content_hash
    monkeypatch.setattr(fingerprint, "content_hash", lambda path: (hashed.append(path), actual(path))[1])
    assert ran(again(named)[0]) == {}
    assert not set(hashed) & set(paths)
    paths[0].touch()
    assert ran(again(named)[0]) == {}
    assert [path for path in hashed if path in paths] == paths[:1]
    paths[1].write_text("B")
    driver, _ = again(named)
    assert driver.why["search.make"] == {"": f"file changed: {paths[1]}"}
    assert (tmp_path / "run/search/shards/000.h5").read_text() == "000 1 aB\n"
    assert ran(driver) == {"make": 1, "work": 9, "gather": 1}


def test_a_file_that_is_gone_is_for_the_stage_to_say(again, tmp_path, capfd):
    path = tmp_path / "a.fits"
    path.write_text("a")
    again(f"make.source=[{path}]")
    path.unlink()
    driver, code = again(f"make.source=[{path}]")
    assert driver.why["search.make"] == {"": f"file gone: {path}"}
    assert code == 1
    assert "FileNotFoundError" in capfd.readouterr().err
    path.write_text("a")
    driver, code = again(f"make.source=[{path}]")
    assert (ran(driver), code) == ({"make": 1}, 0)


def test_a_folder_named_by_options_of_a_batch_stage(again, tmp_path):
    folder = tmp_path / "tuning"
    folder.mkdir()
    (folder / "card.json").write_text("1")
    sets = (f"work.tuning={folder}", "work.refuse=['002']")
    again(*sets)
    assert ran(again(*sets)[0]) == {}
    (folder / "card.json").write_text("2")
    driver, code = again(*sets)
    assert set(driver.why["search.work"].values()) == {f"file changed: {folder}"}
    assert (ran(driver), code) == ({"work": 9}, 3)


def test_seed_changes_results_batches_do_not(again, tmp_path):
    again()
    first = figures(tmp_path)
    what = flow(tmp_path)
    capacity = machine(2, per_task={"work": 1})
    shutil.rmtree(tmp_path / "run")
    driver = Driver(build(what.instances), tmp_path / "run", capacity, Ledger(tmp_path / "run"), Lines())
    from lenspipe.backends.inline import open_inline
    from tests.run import toys

    driver.run(lambda: open_inline(tmp_path / "run", toys.get))
    assert figures(tmp_path) == first
    driver, _ = again("seed=2")
    assert driver.why["search.work"]["000"] == "seed changed"
    assert figures(tmp_path) != first


def test_fewer_keys_leave_no_stale_member_in_the_result(again, tmp_path):
    again()
    again("make.n=4")
    assert sorted(figures(tmp_path)["rows"]) == ["000", "001", "002", "003"]


def test_refused_candidate_is_quarantined_and_not_tried_again(again, tmp_path):
    driver, code = again("work.refuse=['002']")
    assert code == 3
    assert ran(driver)["work"] == 9
    assert figures(tmp_path)["failures"] == {
        "work": {"002": {"reason": "image_constant", "detail": "002: all pixels are 0"}}
    }
    assert "002" not in figures(tmp_path)["rows"]
    driver, code = again("work.refuse=['002']")
    assert (ran(driver), code) == ({}, 3)
    driver, code = again("work.refuse=['002']", retry_failed=True)
    assert ran(driver) == {"work": 1}
    assert driver.why["search.work"] == {"002": "failed before: image_constant"}


def test_bug_is_an_internal_error_of_that_key_with_its_log(again, tmp_path):
    driver, code = again("work.bug=['005']")
    assert code == 3
    (failed,) = driver.failures(driver.nodes[1]).items()
    assert failed[0] == "005"
    assert failed[1]["reason"] == "internal_error"
    log = failed[1]["detail"].split("traceback in ")[1].rstrip(")")
    text = (tmp_path / "run" / log).read_text()
    assert "ZeroDivisionError: a bug" in text
    assert "Traceback" in text
    assert "working on 005" in text


def test_given_up_by_the_stage_itself_counts_as_quarantined(again, tmp_path):
    _, code = again("make.lost=['x7']")
    assert code == 3
    assert figures(tmp_path)["failures"]["make"]["x7"]["reason"] == "file_truncated"
    assert again("make.lost=['x7']")[1] == 3


def test_quarantined_key_is_skipped_downstream(again):
    driver, code = again("work.refuse=['002']", stages=EVERYTHING)
    assert code == 3
    assert ran(driver)["polish"] == 8
    polish = next(node for node in driver.nodes if node.stage.name == "polish")
    assert polish.outcome["002"] == "skipped"


def test_failed_whole_stage_stops_what_needs_it(again, capfd):
    driver, code = again("gather.fail=true")
    assert code == 1
    assert "nothing to gather" in capfd.readouterr().err
    driver, code = again("gather.fail=true")
    assert ran(driver) == {"gather": 1}
    assert again()[1] == 0


def test_a_full_disk_is_said_and_quarantines_nothing(again, capfd):
    driver, code = again("work.full=true")
    assert code == 2
    assert len(driver.mistakes) == 1 and "is full. Make room and run again" in driver.mistakes[0]
    assert again()[1] == 0


def test_users_mistake_in_a_stage_is_exit_2_and_said(again, capfd):
    driver, code = again("work.user_mistake=true")
    assert code == 2
    assert driver.mistakes == ["the pixel scale is not given."]
    assert "search.gather does not run" in capfd.readouterr().err
    driver, code = again()
    assert ran(driver) == {"work": 9, "gather": 1}


def test_corridors_meet_in_weights_and_wide_stages_are_capped(tmp_path):
    what = flow(tmp_path, training={"teach": {}})
    driver, code = drive(tmp_path / "run", what)
    assert code == 0
    assert ran(driver) == {"teach": 1, "make": 1, "work": 9, "gather": 1}
    receipt = json.loads((tmp_path / "run/.lenspipe/receipts/search/work").rglob("000.json").__next__().read_text())
    assert set(receipt["inputs"]) == {"shard/000", "weights"}
    (tmp_path / "run/training/weights/card.json").write_text("other")
    driver, _ = drive(tmp_path / "run", what)
    assert ran(driver) == {"teach": 1}


def test_core_and_memory_budget(tmp_path):
    what = flow(tmp_path, training={"teach": {}})

    def first_tasks(capacity):
        driver = Driver(build(what.instances), tmp_path / "run", capacity, Ledger(tmp_path / "run"), Lines())
        driver.survey()
        names = []
        while found := driver._next():
            driver.busy[object()] = found
            names.append((found[1].stage, found[1].cpus))
        return sorted(names)

    assert first_tasks(machine(65)) == [("make", 1), ("teach", 64)]
    assert len(first_tasks(machine(64))) == 1
    assert len(first_tasks(machine(65, memory_gb=3))) == 1


@pytest.mark.parametrize("state", ["fresh", "config changed", "done"])
def test_dry_run_says_why_and_does_nothing(again, tmp_path, state):
    sets = []
    if state != "fresh":
        again()
    if state == "config changed":
        sets = ["work.offset=5"]
    what = flow(tmp_path, sets=tuple(sets))
    before = sorted(tmp_path.rglob("*"))
    root = tmp_path / "run"
    driver = Driver(build(what.instances), root, machine(2), Ledger(root), Lines(), dry_run=True)
    driver.survey()
    lines = driver.plan_lines()
    assert sorted(tmp_path.rglob("*")) == before
    if state == "fresh":
        assert lines[0] == "search.make: once: new"
        assert lines[1] == "search.work: one per row of shards, not made yet"
        assert lines[2] == "search.gather: once: input made anew"
    elif state == "config changed":
        assert lines[1].startswith("search.work: 9 units (000, 001")
        assert lines[1].endswith("config changed: offset 0 -> 5")
        assert lines[2] == "search.gather: once: input made anew: masks"
    else:
        assert lines == [
            f"search.{s}: {n} as they are" for s, n in (("make", "1 unit"), ("work", "9 units"), ("gather", "1 unit"))
        ]


def test_half_written_leftovers_are_swept(again, tmp_path):
    again()
    mask = tmp_path / "run/search/masks/004.h5"
    (mask.parent / ".0123456789ab.tmp.004.h5").write_text("half")
    mask.unlink()
    again()
    assert sorted(p.name for p in mask.parent.iterdir()) == [f"{i:03d}.h5" for i in range(9)]


def test_index_with_a_wrong_key_is_one_sentence(again, tmp_path):
    from lenspipe.errors import LenspipeError
    from lenspipe.run.node import index_keys

    path = tmp_path / "index.ecsv"
    for rows, words in ((["a", "a"], "stands there twice"), (["../x", "b"], "row 0: id '../x'")):
        from astropy.table import Table

        Table({"key": rows}).write(path, format="ascii.ecsv", overwrite=True)
        with pytest.raises(LenspipeError, match=words):
            index_keys(path)
    Table({"key": ["a", "b"], "selected": [True, False]}).write(path, format="ascii.ecsv", overwrite=True)
    assert index_keys(path) == ["a"]


def test_broken_backend_quarantines_nobody(tmp_path, capfd):
    class Broken:
        def submit(self, task, pool):
            future = Future()
            future.set_exception(RuntimeError("no worker came up"))
            return future

    what, root = flow(tmp_path), tmp_path / "run"
    driver = Driver(build(what.instances), root, machine(2), Ledger(root), Lines())
    assert driver.run(lambda: nullcontext(Broken())) == 1
    assert "search.make does not run: the backend failed: RuntimeError: no worker came up" in capfd.readouterr().err
    assert drive(root, what)[1] == 0


def test_what_is_said_of_one_key_runs_that_key_alone(again, tmp_path):
    again()
    said = tmp_path / "special.json"
    named = tmp_path / "named"
    named.write_text("1")
    said.write_text(json.dumps({"004": "soft", "007": str(named)}))
    driver, _ = again(f"work.special={said}")
    assert ran(driver) == {"work": 2, "gather": 1}
    assert driver.why["search.work"] == dict.fromkeys(("004", "007"), "what the options say of it alone changed")
    assert figures(tmp_path)["rows"]["004"].endswith(" soft\n")
    assert ran(again(f"work.special={said}")[0]) == {}
    said.write_text(json.dumps({"004": "hard", "007": str(named)}))
    driver, _ = again(f"work.special={said}")
    assert set(driver.why["search.work"]) == {"004"}
    named.write_text("2")
    driver, _ = again(f"work.special={said}")
    assert set(driver.why["search.work"]) == {"007"}
    driver, _ = again()
    assert set(driver.why["search.work"]) == {"004", "007"}


def test_keys_that_the_options_set_apart_are_tasks_of_their_own_after_the_others(tmp_path):
    said = tmp_path / "special.json"
    said.write_text(json.dumps({"001": "slow", "002": "soft", "004": "slow"}))
    what = flow(tmp_path, {"make": {"n": 7}, "work": {"special": str(said)}})
    given = []

    class Seen:
        def submit(self, task, pool):
            given.append(task.keys)
            future = Future()
            future.set_result(execute(task, toys.get(task.stage), tmp_path / "run"))
            return future

    def driver(**more):
        return Driver(build(what.instances), tmp_path / "run", machine(1), Ledger(tmp_path / "run"), Lines(), **more)

    held = driver(held_back=frozenset({"search.work"}))
    held.run(lambda: nullcontext(Seen()))
    handed = [task.keys for task in held.hand_out("search.work", 3)]
    assert handed == [("000", "002", "003"), ("005", "006"), ("001",), ("004",)]
    assert driver().run(lambda: nullcontext(Seen())) == 0
    assert given == [("",), ("000", "002", "003", "005"), ("006",), ("001",), ("004",)]


def test_a_key_that_does_not_exist_is_named_with_its_nearest(again, tmp_path, capsys):
    said = tmp_path / "special.json"
    said.write_text(json.dumps({"0044": "soft"}))
    assert again(f"work.special={said}")[1] == 0
    said_so = capsys.readouterr()
    assert "'0044', of which the options say something, is not among its 9 units; did you mean '004'?" in "".join(
        said_so
    )


class Later:
    """A backend whose tasks end when they are told to."""

    def __init__(self, root):
        self.root, self.given = root, []

    def submit(self, task, pool):
        future = Future()
        self.given.append((task, future))
        return future

    def end(self, number):
        task, future = self.given[number]
        future.set_result(execute(task, toys.get(task.stage), self.root))


def test_asked_to_end_it_begins_nothing_and_ends_what_runs(tmp_path, capfd):
    what, root = flow(tmp_path, {"make": {"n": 3}, "work": {}, "gather": {}}), tmp_path / "run"
    backend = Later(root)
    driver = Driver(build(what.instances), root, machine(2, per_task={"work": 1}), Ledger(root), Lines())

    def act():
        until(lambda: len(backend.given) == 1)
        backend.end(0)
        until(lambda: len(backend.given) == 3)
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: driver.ending)
        backend.end(1)
        backend.end(2)

    helper = threading.Thread(target=act)
    helper.start()
    assert driver.run(lambda: nullcontext(backend)) == 75
    helper.join()
    assert len(backend.given) == 3
    assert "ended before all was done" in capfd.readouterr().err
    driver, code = drive(root, what)
    assert code == 0
    assert ran(driver) == {"work": 1, "gather": 1}


def test_what_does_not_end_in_its_grace_is_left(tmp_path):
    what, root = flow(tmp_path), tmp_path / "run"
    backend = Later(root)
    driver = Driver(build(what.instances), root, machine(2), Ledger(root), Lines(), grace_seconds=0.2)
    helper = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGUSR1])
    helper.start()
    assert driver.run(lambda: nullcontext(backend)) == 75
    assert drive(root, what)[1] == 0


def test_cancelled_from_anywhere(tmp_path):
    what, root = flow(tmp_path), tmp_path / "run"
    driver = Driver(build(what.instances), root, machine(2), Ledger(root), Lines())
    helper = threading.Timer(0.2, (root / CANCEL).touch)
    helper.start()
    (root / CANCEL).parent.mkdir(parents=True)
    assert driver.run(lambda: nullcontext(Later(root))) == 143


def test_a_full_pool_does_not_hold_up_another(tmp_path):
    what = flow(tmp_path, {"make": {"n": 3}, "work": {}, "gather": {}}, training={"teach": {}})
    root = tmp_path / "run"
    pools = (Pool("narrow", 1), Pool("wide", 1, cores_per_slot=64))
    backend = Later(root)
    driver = Driver(build(what.instances), root, Capacity(pools), Ledger(root), Lines(), grace_seconds=0)
    helper = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGUSR1])
    helper.start()
    driver.run(lambda: nullcontext(backend))
    assert {task.stage for task, _ in backend.given} == {"make", "teach"}


@pytest.mark.parametrize(("offset", "shares", "label"), [(1, [4, 3], "gpu"), (-1, [1, 1], "cpu")])
def test_keys_are_dealt_out_evenly_over_gpus(tmp_path, monkeypatch, offset, shares, label):
    needed = Resources(gpus=1, per_gpu=9, minutes=10, minutes_more=1)
    stage = replace(toys.STAGES["work"], resources=needed, without_gpu=lambda config: config.offset < 0)
    monkeypatch.setitem(toys.STAGES, "work", stage)
    what = flow(tmp_path, {"make": {"n": 7}, "work": {"offset": offset}, "gather": {}})
    root, given = tmp_path / label, []

    class Some(Later):
        def submit(self, task, pool):
            future = super().submit(task, pool)
            if task.stage == "make":
                self.end(0)
                return future
            given.append((task, pool))
            if len(given) == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            return future

    capacity = Capacity((Pool("cpu", 2), Pool("gpu", 2, gpus=1)))
    driver = Driver(build(what.instances), root, capacity, Ledger(root), Lines(), grace_seconds=0)
    driver.run(lambda: nullcontext(Some(root)))
    assert [len(task.keys) for task, _ in given] == shares
    assert {pool for _, pool in given} == {label}
    assert given[0][0].minutes == 10 + shares[0] - 1


def test_a_stage_that_would_use_a_gpu_says_that_it_does_without(tmp_path, monkeypatch, capfd):
    stage = replace(toys.STAGES["make"], resources=Resources(gpus=1))
    monkeypatch.setitem(toys.STAGES, "make", stage)
    assert drive(tmp_path / "run", flow(tmp_path))[1] == 0
    assert "site local has no GPUs: search.make will run on CPUs" in capfd.readouterr().err
    assert drive(tmp_path / "run", flow(tmp_path))[1] == 0
    assert "GPUs" not in capfd.readouterr().err
