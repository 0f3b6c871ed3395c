"""A parcel's way: from a run folder to a sandbox that shares nothing with it, and what is done there back as a tar."""

import io
import json
import shutil
import tarfile

import pytest

from lenspipe.backends.dagman.batches import make
from lenspipe.backends.dagman.parcel import (
    CHECKPOINT,
    MISTAKE,
    Parcel,
    missing,
    read_parcel,
    take_in,
    work,
    write_parcel,
)
from lenspipe.run.folder import receipt_path
from tests.run import toys
from tests.run.conftest import drive, flow

TOYS = "tests.run.toys"


class Travel:
    """A toy run whose stage ``work`` travels, in one parcel."""

    def __init__(self, folder, *sets, checkpoint_minutes=60.0):
        self.home, self.sandbox, self.folder = folder / "home", folder / "sandbox", folder
        self.flow = flow(folder, sets=("make.n=3", *sets))
        driver = self.drive()
        (task,) = driver.hand_out("search.work", 9)
        self.batch = make("b00001", task, driver.node("search.work").stage, self.home, 1)
        for path in self.batch.inputs:
            (self.sandbox / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.home / path, self.sandbox / path)
        self.parcel = Parcel(task, self.batch.stage, checkpoint_minutes)
        write_parcel(self.sandbox / "parcel.json", self.parcel)
        self.tar = self.sandbox / "outcome.tar"
        driver.ledger.start(task.corridor, task.stage, task.keys)

    def drive(self):
        """All of it that does not wait for the parcel."""
        return drive(self.home, self.flow, held_back=frozenset({"search.work"}))[0]

    def work(self):
        return work(self.sandbox / "parcel.json", self.sandbox, self.tar, TOYS, toys.get)

    def take_in(self):
        return take_in(self.parcel, self.tar, self.home)

    def rows(self):
        return json.loads((self.home / "search/figures.json").read_text())["rows"]

    def rewrite(self, change):
        """Put the tar's members through `change`: (name, content) -> (name, content) or None."""
        with tarfile.open(self.tar) as old:
            members = [(m.name, old.extractfile(m).read()) for m in old if m.isfile()]
        with tarfile.open(self.tar, "w") as new:
            for member in members:
                if kept := change(*member):
                    info = tarfile.TarInfo(kept[0])
                    info.size = len(kept[1])
                    new.addfile(info, io.BytesIO(kept[1]))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A worker keeps to its sandbox; this process does not."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "/nowhere")


def test_what_comes_back_is_what_a_run_at_home_makes(tmp_path):
    travel = Travel(tmp_path)
    assert travel.work() == 0
    assert travel.take_in() == {}
    driver = travel.drive()
    assert driver.exit_code() == 0
    drive(tmp_path / "local", travel.flow)
    assert travel.rows() == json.loads((tmp_path / "local/search/figures.json").read_text())["rows"]
    receipt = json.loads(receipt_path(travel.home, "search", "work", "000").read_text())
    assert (travel.home / receipt["log"]).exists()


def test_a_key_that_kills_its_process_is_named_and_the_others_come_back(tmp_path):
    travel = Travel(tmp_path, "work.kill=['001']", "work.refuse=['002']")
    assert travel.work() == 0
    assert travel.take_in() == {}
    driver = travel.drive()
    assert driver.exit_code() == 3
    assert {key: found["reason"] for key, found in driver.failures(driver.node("search.work")).items()} == {
        "001": "task_crashed",
        "002": "image_constant",
    }
    assert set(travel.rows()) == {"000"}
    assert travel.drive().exit_code() == 3  # and stays so without being tried again
    assert not driver.due("search.work")


def test_each_start_goes_on_from_the_last_ones_checkpoint(tmp_path):
    travel = Travel(tmp_path, checkpoint_minutes=1e-6)
    codes = []
    while not codes or codes[-1]:
        codes.append(travel.work())
        # The next start has the inputs and the checkpoint, and nothing else.
        for path in travel.sandbox.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        for path in travel.batch.inputs:
            (travel.sandbox / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(travel.home / path, travel.sandbox / path)
    assert codes == [CHECKPOINT, CHECKPOINT, 0]
    assert travel.take_in() == {}


def test_a_checkpoint_cut_short_costs_its_work_and_no_more(tmp_path):
    travel = Travel(tmp_path)
    travel.tar.write_bytes(b"half a t")
    assert travel.work() == 0
    assert travel.take_in() == {}


def test_a_mistake_and_another_version_need_a_person(tmp_path, capsys):
    travel = Travel(tmp_path, "work.user_mistake=true")
    assert travel.work() == MISTAKE
    assert "pixel scale" in capsys.readouterr().err
    text = json.loads((travel.sandbox / "parcel.json").read_text())
    (travel.sandbox / "parcel.json").write_text(json.dumps({**text, "lenspipe": "0.0.7"}))
    travel.tar.unlink()
    assert travel.work() == MISTAKE
    assert "0.0.7" in capsys.readouterr().err
    assert travel.tar.exists()  # else HTCondor would hold the job for lack of it


def test_nothing_comes_in_that_was_not_foreseen(tmp_path):
    travel = Travel(tmp_path)
    travel.work()
    with tarfile.open(travel.tar, "a") as tar:
        for name in ("../outside", "/tmp/lenspipe-outside", "search/figures.json", ".lenspipe/ledger.jsonl"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"bad"))
        link = tarfile.TarInfo(travel.parcel.task.outputs["masks"]["000"])
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert travel.take_in() == {}
    assert not (tmp_path / "outside").exists()
    assert not (travel.home / "search/figures.json").exists()
    assert "bad" not in (travel.home / ".lenspipe/ledger.jsonl").read_text()
    assert not (travel.home / "search/masks/000.h5").is_symlink()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda name, data: (name, b"?" + data[1:]) if name.endswith("masks/001.h5") else (name, data), "not what"),
        (lambda name, data: None if name.endswith("masks/001.h5") else (name, data), "not what"),
        (lambda name, data: None if name.endswith("01.json") else (name, data), "not done"),
        (
            lambda name, data: (
                (name, data.replace(b'"version": 1', b'"version": 2')) if name.endswith("001.json") else (name, data)
            ),
            "version",
        ),
    ],
)
def test_what_is_not_as_its_receipt_says_has_not_come_back(tmp_path, change, why):
    travel = Travel(tmp_path)
    travel.work()
    travel.rewrite(change)
    lost = travel.take_in()
    assert list(lost) == ["001"]
    assert why in lost["001"]
    assert missing(travel.parcel, travel.home, since=0) == ["001"]
    assert travel.drive().due("search.work") == ["001"]


def test_a_tar_cut_short_or_missing_is_all_that_is_lost(tmp_path):
    travel = Travel(tmp_path)
    travel.work()
    whole = travel.tar.read_bytes()
    travel.tar.unlink()
    assert set(travel.take_in().values()) == {"nothing came back"}
    travel.tar.write_bytes(whole[: len(whole) // 2 // 512 * 512])
    assert 0 < len(travel.take_in()) < 4
    travel.tar.write_bytes(whole)
    assert travel.take_in() == {}


def test_what_comes_twice_changes_nothing(tmp_path):
    travel = Travel(tmp_path)
    travel.work()
    travel.take_in()
    before = (travel.home / "search/masks/000.h5").stat().st_mtime_ns
    assert travel.take_in() == {}
    assert (travel.home / "search/masks/000.h5").stat().st_mtime_ns == before
    driver = travel.drive()
    assert driver.exit_code() == 0
    assert sorted(key for key in driver.node("search.work").outcome) == ["000", "001", "002"]
    lines = (travel.home / ".lenspipe/ledger.jsonl").read_text().splitlines()
    ended = [e for e in map(json.loads, lines) if e["event"] == "unit" and e["stage"] == "work"]
    assert len(ended) == 3


def test_a_parcel_is_read_as_it_was_written(tmp_path):
    travel = Travel(tmp_path)
    assert read_parcel(travel.sandbox / "parcel.json", toys.get) == travel.parcel
